"""spconv-triton's kernels on our tables: right in Triton's interpreter, what is asked for alone, and with no search."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import SparseTensor
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines.selection import choose_convolution
from i2p_zoo.sparse.engines.spconv_triton_engine import SpconvTritonConvolution
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites
from i2p_zoo.sparse.sparse_convolution import convolve, sparse_convolution
from tests.helpers import dense_convolution, make_window, random_cloud, relative_error, seeded
from tests.triton_tools import compile_kernels, interpret_spconv_triton

TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-13}
MODULE = "spconv_triton.pytorch._impl.gemm"
CASES = [  # channels in and out, kernel, stride: odd and wide, one tap and many, more taps than a mask has bits
    (16, 32, (3, 3, 3), (1, 1, 1)),
    (3, 9, (3, 3, 3), (2, 2, 2)),
    (4, 6, (1, 1, 1), (2, 2, 2)),
    (1, 70, (1, 3, 2), (1, 1, 1)),
    (130, 1, (1, 3, 1), (1, 1, 1)),
    (2, 3, (5, 3, 3), (1, 1, 1)),
]


@pytest.fixture
def gemm(monkeypatch):
    """spconv-triton's operations on CPU tensors."""
    gemm = interpret_spconv_triton(monkeypatch)
    with force_device_path():
        yield gemm


@pytest.fixture
def calls(gemm, monkeypatch):
    """The names of the operations that run, each with its first operand's dtype."""
    called = []
    for name in ("conv_forward", "conv_backward_input", "conv_backward_weight"):
        operation = getattr(gemm, name)

        def record(rows, *args, name=name, operation=operation, **options):
            called.append((name, rows.dtype))
            return operation(rows, *args, **options)

        monkeypatch.setattr(gemm, name, record)
    return called


def draw(channels, outputs, kernel, stride, dtype):
    """A cloud's features, weights, map, window and output sites."""
    x = random_cloud(channels, voxels=60, extent=5, dtype=torch.float32)
    weight = torch.randn((outputs, *kernel, channels), generator=seeded()).to(dtype)
    window = make_window(kernel, stride)
    sites, _, kmap = window_sites(x.cache, x.coords, None, window)
    return x.features.to(dtype), weight, kmap, window, (x.coords, sites)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_and_its_gradients_are_those_of_dense_convolution(gemm, case, dtype):
    features, weight, kmap, window, (coords, sites) = draw(*case, dtype)
    assert isinstance(choose_convolution(features, kmap, 1), SpconvTritonConvolution)
    leaves = [features.requires_grad_(), weight.requires_grad_()]
    out = convolve(*leaves, kmap, 1)
    upstream = torch.randn(out.shape, generator=seeded(1)).to(dtype)
    values = [out, *torch.autograd.grad(out, leaves, upstream)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = dense_convolution(exact[0], coords, sites, exact[1], None, window, 1)
    for value, expected in zip(values, (truth, *torch.autograd.grad(truth, exact, upstream.double())), strict=True):
        assert value.dtype == dtype
        assert relative_error(value, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize(("inputs", "outputs", "taps"), [(0, 0, 3), (0, 4, 3), (5, 0, 3), (5, 4, 0)])
def test_no_rows_and_no_taps_give_zeros(gemm, inputs, outputs, taps):
    table = torch.full((taps, outputs), -1, dtype=torch.int32)
    kmap = KernelMap(list(range(taps)), table, inputs, (1, 1, 3), 0)
    features, weight = torch.ones(inputs, 2, requires_grad=True), torch.ones((4, 1, 1, 3, 2), requires_grad=True)
    out = convolve(features, weight, kmap, 1)
    assert torch.equal(out, torch.zeros(outputs, 4))
    gradients = torch.autograd.grad(out.sum(), [features, weight])
    assert [gradient.count_nonzero() for gradient in gradients] == [0, 0]


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ((False, False), []),
        ((True, False), ["conv_backward_input"]),
        ((False, True), ["conv_backward_weight"]),
        ((True, True), ["conv_backward_input", "conv_backward_weight"]),
    ],
)
def test_only_gradients_that_are_asked_for_are_computed(calls, needs, expected):
    features, weight, kmap, *_ = draw(*CASES[1], torch.float32)
    leaves = [leaf.requires_grad_(needed) for leaf, needed in zip((features, weight), needs, strict=True)]
    out = convolve(*leaves, kmap, 1)
    if any(needs):
        out.sum().backward()
    assert [name for name, _ in calls] == ["conv_forward", *expected]
    assert [leaf.grad is not None for leaf in leaves] == list(needs)


def test_bfloat16_autocast_computes_in_bfloat16_and_keeps_large_values_finite(calls):
    x = random_cloud(4, voxels=60, extent=4, dtype=torch.float32)
    x = SparseTensor(torch.full_like(x.features, 3e4).requires_grad_(), x.coords, batch_size=x.batch_size)
    weight = torch.ones((4, 3, 3, 3, 4), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_convolution(x, weight, None, make_window((3, 3, 3))).features
        out.backward(torch.ones_like(out))
    assert {dtype for _, dtype in calls} == {torch.bfloat16}
    assert out.dtype == torch.bfloat16
    assert out.max() > torch.finfo(torch.float16).max
    assert all(tensor.isfinite().all() for tensor in (out, x.features.grad, weight.grad))


def test_float64_groups_and_tables_beyond_its_offsets_are_our_own(gemm, monkeypatch):
    from i2p_zoo.sparse.engines import selection

    features, _, kmap, *_ = draw(*CASES[0], torch.float32)
    assert isinstance(choose_convolution(features.double(), kmap, 1), TorchConvolution)
    assert isinstance(choose_convolution(features, kmap, 2), TorchConvolution)
    monkeypatch.setattr(selection, "_LARGEST_TABLE", kmap.table.numel() - 1)
    assert isinstance(choose_convolution(features, kmap, 1), TorchConvolution)


@pytest.fixture
def _switches():
    """Leaves torch's switches for TF32 as they were."""
    yield
    for owner in (torch.backends, torch.backends.cuda.matmul):
        if hasattr(owner, "fp32_precision"):
            owner.fp32_precision = "none"


@pytest.mark.usefixtures("_switches")
@pytest.mark.parametrize("switch", ["old", "new", "new, for all"])
def test_tf32_goes_by_either_of_torch_s_switches(gemm, monkeypatch, switch):
    from spconv_triton import constants

    asked = []
    monkeypatch.setattr(gemm, "conv_forward", lambda *a, **k: asked.append(constants.SPCONV_ALLOW_TF32) or torch.zeros(1))
    features, weight, kmap, *_ = draw(*CASES[0], torch.float32)
    owner, name, on, off = {
        "old": (torch.backends.cuda.matmul, "allow_tf32", True, False),
        "new": (torch.backends.cuda.matmul, "fp32_precision", "tf32", "none"),
        "new, for all": (torch.backends, "fp32_precision", "tf32", "none"),
    }[switch]
    if not hasattr(owner, name):
        pytest.skip("torch has no such switch")
    for value in (on, off):
        setattr(owner, name, value)
        convolve(features, weight, kmap, 1)
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("kernel", "extents", "size", "expected"),
    [
        ("_gather_gemm_kernel", {"N_dim": 64, "R_dim": 64}, 4, {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_R": 32}),
        ("_gather_gemm_kernel", {"N_dim": 512, "R_dim": 512}, 2, {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_R": 32}),
        ("_gather_gemm_kernel", {"N_dim": 16, "R_dim": 3}, 2, {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_R": 16}),
        ("_dweight_masked_kernel", {"K_dim": 512, "C_dim": 256}, 2, {"BLOCK_P": 64, "BLOCK_K": 64, "BLOCK_C": 64}),
        ("_dweight_masked_kernel", {"K_dim": 64, "C_dim": 512}, 4, {"BLOCK_P": 64, "BLOCK_K": 64, "BLOCK_C": 64}),
        ("_dweight_masked_kernel", {"K_dim": 8, "C_dim": 8}, 4, {"BLOCK_P": 128, "BLOCK_K": 16, "BLOCK_C": 16}),
    ],
)
def test_a_layer_shape_has_one_tile_shape_and_no_search(gemm, kernel, extents, size, expected):
    from i2p_zoo.sparse.engines.spconv_triton_engine import load_operations

    autotuner = getattr(load_operations(), kernel)
    (choice,) = autotuner.early_config_prune(
        autotuner.configs, {"feats_ptr": torch.zeros(1, dtype={2: torch.bfloat16, 4: torch.float32}[size]), **extents}
    )
    assert {name: choice.kwargs[name] for name in expected} == expected
    across, *others = (choice.kwargs[f"BLOCK_{axis}"] for axis in ("RMN" if "N_dim" in extents else "PKC"))
    assert choice.num_stages * size * across * sum(others) <= 2**16, "AMD's GPUs have 64 KiB of shared memory"


def test_its_kernels_compile_for_gpus_as_they_are_called():
    pytest.importorskip("spconv_triton")
    sizes = dict.fromkeys(("M", "s_fr", "s_fc", "s_wkv", "s_wr", "s_wn", "s_pk", "s_pm", "s_or", "s_oc"), "i32")
    pointers = dict.fromkeys(("pairs_ptr", "pmask_ptr", "argsort_ptr"), "*i32")
    shape = {"N_dim": 64, "R_dim": 64, "kv": 27, "HAS_BIAS": False, "FP16_ACC": False, "USE_MASK": True, "GROUP_SIZE_M": 8}
    tile = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_R": 32}
    steps = dict.fromkeys(("splits", "s_fr", "s_fc", "s_gr", "s_gc", "s_dk", "s_dkv", "s_dc", "s_ds"), "i32")
    lists = dict.fromkeys(("sig_i_ptr", "sig_o_ptr", "seg_ptr"), "*i32")
    of_weight = {"K_dim": 64, "C_dim": 64, "kv": 27, "FP16_ACC": False, "BLOCK_P": 64, "BLOCK_K": 64, "BLOCK_C": 64}
    cases = []
    for kind, target in (("bf16", "sm_80"), ("bf16", "sm_90"), ("fp32", "sm_90")):
        precision = {"IEEE": kind == "fp32", "ALLOW_TF32": False}
        values = dict.fromkeys(("feats_ptr", "weight_ptr", "out_ptr", "bias_ptr"), f"*{kind}")
        gradients = {"feats_ptr": f"*{kind}", "gout_ptr": f"*{kind}", "dw_ptr": "*fp32"}
        cases.append((MODULE, "_gather_gemm_kernel", {**values, **pointers, **sizes}, {**shape, **tile, **precision}, target))
        cases.append((MODULE, "_dweight_masked_kernel", {**gradients, **lists, **steps}, {**of_weight, **precision}, target))
    assert compile_kernels(cases) == [""] * len(cases)
