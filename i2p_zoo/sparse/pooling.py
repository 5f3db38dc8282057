"""Pooling over windows and over whole samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_zoo.sparse.autograd_limits import ReverseModeFunction
from i2p_zoo.sparse.engines.selection import choose_maximum
from i2p_zoo.sparse.geometry import Triple, Window
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites
from i2p_zoo.sparse.sparse_convolution import convolve, with_window
from i2p_zoo.sparse.tensor import SparseTensor


def max_pool(x: SparseTensor, window: Window, level: int) -> SparseTensor:
    """Takes the maximum over the active voxels of each window; an output whose window holds none is 0.

    Zeros that the 2D network put around the image take part where there is a `spatial_shape`, as in 2D.

    Args:
        x: (N, ...) features.
        window: geometry.
        level: `Plan.level` of the result.
    """
    coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
    out: Tensor = _MaxPool.apply(x.features.flatten(1), kmap)
    if window.zeros and x.spatial_shape is not None:
        inside = _count_positions(coords, x.spatial_shape, window, (0, 0, 0), (0, 0, 0))
        padded = _count_positions(coords, x.spatial_shape, window, window.given_before, window.given_after)
        out = torch.where((inside < padded)[:, None], out.clamp(min=0), out)
    return with_window(x, out.unflatten(1, x.features.shape[1:]), coords, shape, window, level)


def average_pool(
    x: SparseTensor, window: Window, level: int, *, count_padding: bool = True, divisor: int | None = None
) -> SparseTensor:
    """Averages over each window.

    With a `spatial_shape` the divisor is torch's: the window's positions inside the input, and inside its padding where
    `count_padding` says so. Without one it is the number of active voxels in the window.

    Args:
        x: (N, ...) features.
        window: geometry.
        level: `Plan.level` of the result.
        count_padding: torch's `count_include_pad`.
        divisor: torch's `divisor_override`.
    """
    coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
    flat = in_single(x).features.flatten(1)
    ones = flat.new_ones((flat.shape[1], *window.kernel, 1))
    total = convolve(flat, ones, kmap, groups=flat.shape[1], counted=False)
    if divisor is not None:
        count = flat.new_full((len(coords),), float(divisor))
    elif x.spatial_shape is None:
        count = (kmap.table >= 0).sum(0).to(flat.dtype).clamp(min=1)
    else:
        margins = (window.before, window.after) if count_padding else (window.given_before, window.given_after)
        count = _count_positions(coords, x.spatial_shape, window, *margins).to(flat.dtype).clamp(min=1)
    out = (total / count[:, None]).to(x.dtype).unflatten(1, x.features.shape[1:])
    return with_window(x, out, coords, shape, window, level)


def _count_positions(coords: Tensor, shape: Triple, window: Window, before: Triple, after: Triple) -> Tensor:
    """(M,) int64: how many positions of each output's window lie in the image grown by margins before and after."""
    count = torch.ones(len(coords), dtype=torch.int64, device=coords.device)
    for axis in range(3):
        taps = torch.arange(window.kernel[axis], device=coords.device) * window.dilation[axis] - window.before[axis]
        at = coords[:, axis + 1, None].long() * window.stride[axis] + taps
        has_margins = axis != window.new_axis
        low, high = (-before[axis], shape[axis] + after[axis]) if has_margins else (0, shape[axis])
        count = count * ((at >= low) & (at < high)).sum(1)
    return count


class _MaxPool(ReverseModeFunction):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kmap: KernelMap) -> Tensor:
        engine = choose_maximum(features)
        out, source = engine.forward(features.detach(), kmap)
        ctx.save_for_backward(source)
        ctx.engine, ctx.kmap = engine, kmap
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (source,) = ctx.saved_tensors
        result: Tensor = ctx.engine.input_gradient(gradient, source, ctx.kmap)
        return result, None


def in_single(x: SparseTensor) -> SparseTensor:
    """Returns half-precision features in float32, for sums that half precision cannot hold; others as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def reduce_sites(x: SparseTensor, reduction: str) -> Tensor:
    """Reduces each sample's voxels to one row; a sample with no voxel gives 0.

    Args:
        x: (N, ...) features.
        reduction: "mean", "sum" or "amax".

    Returns:
        (B, ...) dense.
    """
    features = x.features
    trailing = [1] * (features.ndim - 1)
    if reduction == "amax":
        return x.batch_index.largest(features).masked_fill((x.sample_counts == 0).view(-1, *trailing), 0)
    total = x.batch_index.sum(in_single(x).features)
    if reduction == "mean":
        total = total / x.sample_counts.clamp(min=1).view(-1, *trailing).to(total.dtype)
    return total.to(features.dtype)
