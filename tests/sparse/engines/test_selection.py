"""The engines: which one runs, and on a GPU that all compute what the CPU does."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import torch
from threadpoolctl import threadpool_limits

import i2p_zoo
from i2p_zoo import InvalidInputError, MissingExtraError
from i2p_zoo.sparse.engines import selection
from i2p_zoo.sparse.engines.numba_engine import NumbaConvolution, NumbaDepthwise
from i2p_zoo.sparse.engines.selection import ENGINES, choose_convolution, choose_depthwise, find_package, use_engine
from i2p_zoo.sparse.engines.spconv_engine import SpconvConvolution
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution, TorchDepthwise
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import convolve, sparse_convolution
from tests.helpers import dense_convolution, make_window, random_cloud, relative_error, seeded

CUDA = torch.device("cuda")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def packages(monkeypatch):
    """Stands for what is installed: names in it, and no others, can be loaded."""
    present = {}
    monkeypatch.setattr(selection, "_load", present.get)
    return present


def test_cpu_runs_our_own_kernels_whatever_is_installed(packages):
    packages.update(spconv="one", spconv_triton="other")
    assert find_package(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("present", "expected"), [((), None), (("spconv",), "spconv"), (("spconv", "spconv_triton"), "spconv_triton")]
)
def test_gpu_runs_what_is_installed_spconv_triton_first(packages, present, expected):
    packages.update({name: name for name in present})
    assert find_package(CUDA) == expected


def test_choice_holds_within_its_block(packages, monkeypatch):
    packages.update(spconv="spconv", spconv_triton="spconv_triton")
    monkeypatch.setattr(selection, "require", lambda name, extra: None)
    with use_engine("spconv"):
        assert find_package(CUDA) == "spconv"
        with use_engine("torch"):
            assert find_package(CUDA) is None
        assert find_package(CUDA) == "spconv"
    with pytest.raises(ArithmeticError), use_engine("torch"):
        raise ArithmeticError
    assert find_package(CUDA) == "spconv_triton"


def test_unknown_engine_is_quoted_with_the_known_ones():
    with (
        pytest.raises(InvalidInputError, match=r"auto, torch, spconv_triton, spconv; got 'mink'"),
        use_engine("mink"),
    ):
        pass


def test_engine_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv_triton", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[triton\]"), use_engine("spconv_triton"):
        pass


@pytest.mark.parametrize(
    ("dtype", "convolution", "depthwise"),
    [
        (torch.float32, NumbaConvolution, NumbaDepthwise),
        (torch.float64, NumbaConvolution, NumbaDepthwise),
        (torch.bfloat16, TorchConvolution, TorchDepthwise),
    ],
)
def test_cpu_runs_numba_in_the_dtypes_it_has_kernels_for_and_torch_in_others(dtype, convolution, depthwise):
    x = random_cloud(4, dtype=dtype)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
    assert [type(choose_convolution(x.features, kmap, groups)) for groups in (1, 2)] == [convolution] * 2
    assert type(choose_depthwise(x.features, kmap)) is depthwise


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # spconv's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("needs", ["both gradients", "the input's", "the weight's"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_spconv_on_one_thread_gives_the_convolution_of_our_map_and_its_gradients(stride, needs, dtype, monkeypatch):
    spconv = pytest.importorskip("spconv")
    operations = importlib.import_module("spconv.pytorch.ops")
    monkeypatch.setattr(operations, "get_current_stream", lambda: 0)  # which it asks for on the CPU too
    x = random_cloud(8, voxels=200, dtype=torch.float32)
    window = make_window((3, 2, 3), stride)
    out, _, kmap = window_sites(x.cache, x.coords, None, window)
    features, weight = x.features.to(dtype), torch.randn((16, 3, 2, 3, 8), generator=seeded()).to(dtype)
    upstream = torch.randn((len(out), 16), generator=seeded(1)).to(dtype)
    engine, taps = SpconvConvolution(spconv, kmap), weight.flatten(1, 3)
    with threadpool_limits(1, user_api="openmp"):
        found = [engine.forward(features, taps)]
        if needs == "both gradients":
            found += engine.gradients(upstream, features, taps)
        elif needs == "the input's":
            found.append(engine.input_gradient(upstream, taps))
        else:
            found.append(engine.weight_gradient(upstream, features, taps))
    exact = [tensor.double().requires_grad_() for tensor in (features, weight)]
    values = dense_convolution(exact[0], x.coords, out, exact[1], None, window, 1)
    of_input, of_weight = torch.autograd.grad(values, exact, upstream.double())
    gradients = {"both gradients": [of_input, of_weight], "the input's": [of_input], "the weight's": [of_weight]}
    tolerance = {torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
    for tensor, truth in zip(found, [values, *gradients[needs]], strict=True):
        assert tensor.dtype == dtype
        assert relative_error(tensor.reshape(truth.shape), truth) < tolerance


def gradients(device, dtype=torch.float32, groups=1, stride=(1, 1, 1), needs=(True, True)):
    """Output of a convolution on a device and the gradients that are needed, in float64 on the CPU."""
    x = random_cloud(16, voxels=400, extent=9, dtype=torch.float32)
    weight = torch.randn((32, 3, 3, 3, 16 // groups), generator=seeded())
    leaves = [t.to(device, dtype).requires_grad_(needed) for t, needed in zip((x.features, weight), needs, strict=True)]
    x = i2p_zoo.SparseTensor(leaves[0], x.coords.to(device), batch_size=x.batch_size)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3), stride))
    out = convolve(x.features, leaves[1], kmap, groups)
    upstream = torch.randn(out.shape, generator=seeded(1)).to(device, dtype)
    results = (out, *torch.autograd.grad(out, [leaf for leaf in leaves if leaf.requires_grad], upstream))
    return [t.detach().double().cpu() for t in results]


@on_gpu
@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=["both", "the input's", "the weight's"])
def test_gpu_gives_what_the_cpu_gives(engine, stride, groups, dtype, needs):
    if engine != "torch":
        pytest.importorskip(f"{engine}.pytorch.functional")
    expected = gradients("cpu", groups=groups, stride=stride, needs=needs)
    with use_engine(engine):
        found = gradients("cuda", dtype, groups, stride, needs)
    tolerance = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < tolerance


@on_gpu
@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_on_a_gpu_computes_in_its_dtype(engine, dtype):
    if engine != "torch":
        pytest.importorskip(f"{engine}.pytorch.functional")
    expected = gradients("cpu")
    x = random_cloud(16, voxels=400, extent=9, dtype=torch.float32)
    x = i2p_zoo.SparseTensor(x.features.cuda().requires_grad_(), x.coords.cuda(), batch_size=x.batch_size)
    weight = torch.randn((32, 3, 3, 3, 16), generator=seeded()).cuda().requires_grad_()
    with use_engine(engine), torch.autocast("cuda", dtype):
        out = sparse_convolution(x, weight, None, make_window((3, 3, 3))).features
    upstream = torch.randn(out.shape, generator=seeded(1)).to("cuda", dtype)
    found = torch.autograd.grad(out, [x.features, weight], upstream)
    assert (out.dtype, *(gradient.dtype for gradient in found)) == (dtype, torch.float32, torch.float32)
    for a, b in zip((out, *found), expected, strict=True):
        assert relative_error(a.double().cpu(), b) < {torch.float16: 2e-2, torch.bfloat16: 8e-2}[dtype]


TRITON_SCRIPT = """
import torch
from i2p_zoo.sparse.kernels import depthwise_triton

random = torch.Generator().manual_seed(0)
for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14), (torch.float16, 2e-3)):
    features, upstream = (torch.randn(n, 70, generator=random, dtype=torch.float64).to(dtype) for n in (40, 50))
    weight = torch.randn(3, 70, generator=random, dtype=torch.float64).to(dtype)
    table = torch.randint(-1, 40, (3, 50), generator=random, dtype=torch.int32)
    read = torch.cat([features.double(), torch.zeros(1, 70)])[table.long()]  # row -1 reads zeros
    for found, expected in (
        (depthwise_triton.forward(features, weight, table), (read * weight.double()[:, None]).sum(0)),
        (depthwise_triton.weight_gradient(features, upstream, table), (read * upstream.double()).sum(1)),
    ):
        assert found.dtype == dtype
        assert (found - expected).abs().max() < tolerance * expected.abs().max(), dtype
print("right")
"""


def test_triton_kernels_are_right_in_triton_s_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", TRITON_SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "right\n", run.stderr


@on_gpu
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_network_on_a_gpu_gives_the_cpu_s_logits(name):
    torch.manual_seed(0)
    model = i2p_zoo.create_model(name, num_classes=7).eval()
    clouds = [torch.rand(1000, 3, generator=seeded(i)) for i in range(2)]
    with torch.no_grad():
        expected = model(clouds)
        found = model.cuda()([cloud.cuda() for cloud in clouds]).cpu()
    assert relative_error(found, expected) < 1e-4
