"""Half precision on a CPU: errors against float64, no larger than those of torch's dense functions on a full grid."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BlurPool2d
from timm.layers.global_context import GlobalContext
from torch.nn import functional as F

from i2p_zoo import SparseTensor, image_to_plane
from i2p_zoo.layers.blur_pool import SparseBlurPool3d
from i2p_zoo.layers.global_context import SparseGlobalContext
from i2p_zoo.sparse.devoxelization import devoxelize
from i2p_zoo.sparse.engines import numba_engine
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution, TorchDepthwise
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from tests.helpers import make_window, seeded

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
WINDOW = make_window((3, 3, 3))
SIDE = 6


def volume(channels, dtype, seed=0):
    return torch.randn((2, channels, SIDE, SIDE, SIDE), generator=seeded(seed)).to(dtype)


def rounding(value, exact):
    return float((value.double() - exact).detach().norm() / exact.detach().norm())


def with_gradients(function, x, weight, bias, upstream):
    """The output and the gradients of the input, the weight and the bias."""
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    out = function(*leaves)
    return [out, *torch.autograd.grad(out, leaves, upstream)]


@HALVES
@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("groups", [1, 2, 16], ids=["dense", "two groups", "depthwise"])
def test_convolution_rounds_no_more_than_torch_s_conv3d(groups, engine, dtype, monkeypatch):
    if engine == "torch":
        monkeypatch.setattr(numba_engine, "has_kernel", lambda _: False)
    x, bias, upstream = volume(16, dtype), torch.randn(16, generator=seeded(1)).to(dtype), volume(16, dtype, seed=2)
    weight = torch.randn((16, 16 // groups, 3, 3, 3), generator=seeded(3)).to(dtype)

    def sparse(x, weight, bias):
        clouds = SparseTensor.from_dense(x, keep_zeros=True)
        return sparse_convolution(clouds, weight.permute(0, 2, 3, 4, 1), bias, WINDOW, groups).dense()

    def dense(x, weight, bias):
        return F.conv3d(x, weight, bias, padding=1, groups=groups)

    exact = with_gradients(dense, *(t.double() for t in (x, weight, bias, upstream)))
    values, references = (with_gradients(function, x, weight, bias, upstream) for function in (sparse, dense))
    for name, value, reference, truth in zip(("output", "input", "weight"), values, references, exact, strict=False):
        assert value.dtype == dtype
        assert rounding(value, truth) <= 1.1 * rounding(reference, truth), name


@HALVES
@pytest.mark.parametrize(("engine", "groups"), [(TorchConvolution, 1), (TorchConvolution, 2), (TorchDepthwise, None)])
def test_torch_s_operations_add_up_taps_in_float32(engine, groups, dtype):
    """As on a GPU without Triton or spconv: each tap's product may be rounded, but not the sums of them."""
    x = SparseTensor.from_dense(volume(8, dtype), keep_zeros=True)
    kmap = window_sites(x.cache, x.coords, None, WINDOW)[2]
    shape = (27, 8) if groups is None else (8, 27, 8 // groups)
    weight, upstream = (
        torch.rand(shape, generator=seeded(1)).to(dtype),
        torch.rand(x.features.shape, generator=seeded(2)).to(dtype),
    )
    values, exact = (
        [
            (run := engine(kmap) if groups is None else engine(kmap, groups)).forward(x.features.to(kind), weight.to(kind)),
            *run.gradients(upstream.to(kind), x.features.to(kind), weight.to(kind)),
        ]
        for kind in (dtype, torch.float64)
    )
    for value, truth in zip(values, exact, strict=True):
        assert value.dtype == dtype
        assert rounding(value, truth) < 0.6 * torch.finfo(dtype).eps


@HALVES
def test_average_pool_rounds_no_more_than_torch_s(dtype):
    x = volume(4, dtype)
    plane = x[:, :, 0]
    value = F.avg_pool2d(image_to_plane(plane), 3, 1, 1).dense()[:, :, 0]
    exact = F.avg_pool2d(plane.double(), 3, 1, 1)
    assert rounding(value, exact) <= 1.1 * rounding(F.avg_pool2d(plane, 3, 1, 1), exact)


def test_sums_of_an_average_do_not_overflow_float16():
    x = SparseTensor.from_dense(torch.full((1, 1, 3, 3, 3), 30_000, dtype=torch.float16))
    assert F.avg_pool2d(x, 3, 1, 1).features.isfinite().all()


@HALVES
def test_group_norm_rounds_no_more_than_torch_s(dtype):
    x, weight, bias = volume(8, dtype), *(torch.randn(8, generator=seeded(s)).to(dtype) for s in (1, 2))
    value = F.group_norm(SparseTensor.from_dense(x, keep_zeros=True), 4, weight, bias).dense()
    exact = F.group_norm(x.double(), 4, weight.double(), bias.double())
    assert rounding(value, exact) <= 1.1 * rounding(F.group_norm(x, 4, weight, bias), exact)


@HALVES
def test_interpolated_points_are_rounded_once(dtype):
    x = SparseTensor.from_dense(volume(4, dtype)[:1], keep_zeros=True)
    positions = torch.rand((300, 4), generator=seeded(1)) * (SIDE - 1) + 0.5
    positions[:, 0] = 0
    index = torch.zeros(300, dtype=torch.int64)
    value, exact = devoxelize(x, positions, index), devoxelize(x.derive(x.features.double()), positions, index)
    assert value.dtype == dtype
    assert torch.equal(value, exact.to(dtype)) or rounding(value, exact) < 0.5 * torch.finfo(dtype).eps


@HALVES
def test_blur_rounds_no_more_than_timm_s(dtype):
    leaf, images = BlurPool2d(4).to(dtype), volume(4, dtype)[:, :, 0]
    value = SparseBlurPool3d(leaf, "z")(image_to_plane(images)).dense()[:, :, 0]
    exact = BlurPool2d(4).double()(images.double())
    assert rounding(value, exact) <= 1.1 * rounding(leaf(images), exact)


class SameScore(torch.nn.Module):
    """Scores every voxel alike."""

    def forward(self, x):
        return x[:, :1] * 0


def test_context_of_more_voxels_than_float16_counts_is_their_mean():
    layer = SparseGlobalContext(GlobalContext(8, fuse_scale=False, fuse_add=True))
    layer.conv_attn, layer.mlp_add = SameScore(), torch.nn.Identity()
    x = image_to_plane(torch.ones((1, 8, 300, 300), dtype=torch.float16))
    assert layer(x).features.unique().tolist() == [2]
