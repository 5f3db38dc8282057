"""Which engine runs, and on a GPU that all compute what the CPU does."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError, MissingExtraError
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines import selection
from i2p_zoo.sparse.engines.numba_engine import NumbaConvolution, NumbaDepthwise
from i2p_zoo.sparse.engines.selection import ENGINES, choose_convolution, choose_depthwise, use_engine
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution, TorchDepthwise
from i2p_zoo.sparse.engines.triton_engine import TritonDepthwise
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import convolve, sparse_convolution
from tests.helpers import make_window, random_cloud, relative_error, seeded

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def packages(monkeypatch):
    """Stands for what is installed and works: names in it, and no others, can be loaded."""
    present = {}
    monkeypatch.setattr(selection, "find_package", present.get)
    monkeypatch.setattr(selection, "require_package", present.__getitem__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return present


@pytest.fixture
def on_device(monkeypatch):
    """Has CPU tensors taken for CUDA's."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with force_device_path():
        yield


def chosen(dtype=torch.float32, groups=1):
    """The package of the engine that convolves features of a dtype, or the engine's type."""
    x = random_cloud(4, dtype=dtype)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
    engine = choose_convolution(x.features, kmap, groups)
    return getattr(engine, "package", type(engine))


def test_cpu_runs_our_own_kernels_whatever_is_installed(packages):
    packages.update(spconv="one", spconv_triton="other")
    assert chosen() is NumbaConvolution


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(
    ("present", "expected"), [((), TorchConvolution), (("spconv",), "spconv"), (("spconv", "spconv_triton"), "spconv_triton")]
)
def test_gpu_runs_what_is_installed_spconv_triton_first(packages, present, expected):
    packages.update({name: name for name in present})
    assert chosen() == expected


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(
    ("engine", "dtype", "groups", "expected"),
    [
        ("auto", torch.bfloat16, 1, "spconv_triton"),
        ("auto", torch.float64, 1, TorchConvolution),
        ("auto", torch.float32, 2, TorchConvolution),
        ("spconv", torch.float16, 1, "spconv"),
        ("spconv", torch.bfloat16, 1, TorchConvolution),
        ("spconv", torch.float64, 1, TorchConvolution),
        ("spconv_triton", torch.float64, 1, TorchConvolution),
        ("torch", torch.float32, 1, TorchConvolution),
    ],
)
def test_engines_are_asked_what_they_can_do_before_they_are_chosen(packages, engine, dtype, groups, expected):
    packages.update(spconv="spconv", spconv_triton="spconv_triton")
    with use_engine(engine):
        assert chosen(dtype, groups) == expected


@pytest.mark.usefixtures("on_device")
def test_choice_holds_within_its_block(packages):
    packages.update(spconv="spconv", spconv_triton="spconv_triton")
    with use_engine("spconv"):
        assert chosen() == "spconv"
        with use_engine("torch"):
            assert chosen() is TorchConvolution
        assert chosen() == "spconv"
    with pytest.raises(ArithmeticError), use_engine("torch"):
        raise ArithmeticError
    assert chosen() == "spconv_triton"


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(("engine", "expected"), [("auto", TritonDepthwise), ("torch", TorchDepthwise)])
def test_depthwise_convolution_is_triton_s_unless_torch_alone_is_asked_for(engine, expected):
    pytest.importorskip("triton")
    x = random_cloud(4, dtype=torch.float32)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
    with use_engine(engine):
        assert type(choose_depthwise(x.features, kmap)) is expected


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
