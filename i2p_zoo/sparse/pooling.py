"""Pooling over windows and over whole samples, and nearest up-sampling, on sparse tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import Triple, unique_rows
from i2p_zoo.sparse.kernel_maps import KernelMap, Window, window_sites
from i2p_zoo.sparse.kernels import max_pooling as _pooling
from i2p_zoo.sparse.sparse_convolution import convolve, has_kernel, with_window
from i2p_zoo.sparse.tensor import SparseTensor, simplify_stride
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks


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
        image, given = (0, 0, 0), (window.given_before, window.given_after)
        counts = [_positions(coords, x.spatial_shape, window, *margins) for margins in ((image, image), given)]
        out = torch.where((counts[0] < counts[1])[:, None], out.clamp(min=0), out)
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
    flat = x.features.flatten(1)
    ones = flat.new_ones((flat.shape[1], *window.kernel, 1))
    total = convolve(flat, ones, kmap, groups=flat.shape[1]) if flat.shape[1] > 1 else convolve(flat, ones, kmap, 1)
    if divisor is not None:
        count = flat.new_full((len(coords),), float(divisor))
    elif x.spatial_shape is None:
        count = (kmap.table >= 0).sum(0).to(flat.dtype).clamp(min=1)
    else:
        margins = (window.before, window.after) if count_padding else (window.given_before, window.given_after)
        count = _positions(coords, x.spatial_shape, window, *margins).to(flat.dtype).clamp(min=1)
    out = (total / count[:, None]).unflatten(1, x.features.shape[1:])
    return with_window(x, out, coords, shape, window, level)


def _positions(coords: Tensor, shape: Triple, window: Window, before: Triple, after: Triple) -> Tensor:
    """(M,) int64: how many positions of each output's window lie in the image grown by margins before and after."""
    count = torch.ones(len(coords), dtype=torch.int64, device=coords.device)
    for axis in range(3):
        taps = torch.arange(window.kernel[axis], device=coords.device) * window.dilation[axis] - window.before[axis]
        at = coords[:, axis + 1, None].long() * window.stride[axis] + taps
        grown = axis != window.new_axis
        low, high = (-before[axis], shape[axis] + after[axis]) if grown else (0, shape[axis])
        count = count * ((at >= low) & (at < high)).sum(1)
    return count


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kmap: KernelMap) -> Tensor:
        out = features.new_empty((kmap.num_outputs, features.shape[1]))
        if has_kernel(features):
            source = torch.empty(out.shape, dtype=torch.int32)
            arrays = (features.detach().contiguous().numpy(), kmap.table.numpy(), out.numpy(), source.numpy())
            run_chunks(_pooling.max_forward, chunk_bounds(len(out)), *arrays)
        else:
            out, source = _max_in_torch(features, kmap)
        ctx.save_for_backward(source)
        ctx.kmap = kmap
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (source,) = ctx.saved_tensors
        kmap: KernelMap = ctx.kmap
        out = gradient.new_zeros((kmap.num_inputs, gradient.shape[1]))
        if has_kernel(gradient):
            arrays = (gradient.contiguous().numpy(), kmap.transposed.numpy(), source.numpy(), out.numpy())
            run_chunks(_pooling.max_backward, chunk_bounds(len(out)), *arrays)
        else:
            out.scatter_add_(0, source.long().clamp(min=0), gradient * (source >= 0))
        return out, None


def _max_in_torch(features: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor]:
    """The maximum and the int32 row it came from (-1 and 0 for an empty window), on any device."""
    best = features.new_zeros((kmap.num_outputs, features.shape[1]))
    source = torch.full(best.shape, -1, dtype=torch.int32, device=best.device)
    for row in kmap.table:
        value = features[row.clamp(min=0).long()]
        better = (row >= 0)[:, None] & ((source < 0) | (value > best) | value.isnan())
        best = torch.where(better, value, best)
        source = torch.where(better, row[:, None], source)
    return best, source


def in_single(x: SparseTensor) -> SparseTensor:
    """Returns half-precision features in float32, for sums that half precision cannot hold; others as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def reduce_sites(x: SparseTensor, how: str) -> Tensor:
    """Reduces each sample's voxels to one row; a sample with no voxel gives 0.

    Args:
        x: (N, ...) features.
        how: "mean", "sum" or "amax".

    Returns:
        (B, ...) dense.
    """
    features, rows = x.features, x.batch_rows
    if how == "amax":
        index = rows.view(-1, *[1] * (features.ndim - 1)).expand_as(features)
        out = features.new_full((x.batch_size, *features.shape[1:]), -torch.inf)
        out = out.scatter_reduce(0, index, features, "amax")
        return out.masked_fill((x.sample_counts == 0).view(-1, *[1] * (features.ndim - 1)), 0)
    single = in_single(x).features
    total = single.new_zeros((x.batch_size, *features.shape[1:])).index_add(0, rows, single)
    if how == "mean":
        total = total / x.sample_counts.clamp(min=1).view(-1, *[1] * (features.ndim - 1)).to(total.dtype)
    return total.to(features.dtype)


def upsample_nearest(x: SparseTensor, factor: int) -> SparseTensor:
    """Gives each finer site, of those that `x` was strided from, the features of its voxel.

    Args:
        x: (N, ...) features at a stride.
        factor: how many times finer, along the image's axes and the new one alike.

    Raises:
        UnsupportedError: the input's history has no sites at that stride.
        InvalidInputError: `factor` is not a positive whole number.
    """
    if factor < 1:
        raise InvalidInputError(f"The up-sampling factor must be a positive whole number; got {factor}.")
    level = x.plan.level
    plan_level = max(level - (factor.bit_length() - 1), 0)
    skip = x.plan.skip_downsamples
    wanted = 2 ** (max(level - skip, 0) - max(plan_level - skip, 0)) if skip else factor
    coords, shape, ratio = x.coords, x.spatial_shape, (1, 1, 1)
    while max(ratio) < wanted:
        origin = x.cache.origins.get(id(coords))
        if origin is None:
            raise UnsupportedError(
                f"Nearest up-sampling by {factor} needs the finer sites that the tensor was strided from; its history goes "
                f"back by a factor of {ratio} (z, y, x) only. Up-sample tensors that came from a strided layer."
            )
        coords, shape = origin.parent, origin.parent_shape
        ratio = (ratio[0] * origin.stride[0], ratio[1] * origin.stride[1], ratio[2] * origin.stride[2])
    if ratio != (wanted,) * 3:
        raise UnsupportedError(f"Nearest up-sampling by {factor} does not undo strides of {ratio} (z, y, x).")
    if wanted == 1:
        return x.with_plan(level=plan_level)
    coarse = coords.clone()
    coarse[:, 1:] = torch.div(coords[:, 1:], coords.new_tensor(ratio), rounding_mode="floor")
    return _spread(x, coords, coarse, shape, ratio).with_plan(level=plan_level)


def upsample_to_extent(x: SparseTensor, height: int, width: int) -> SparseTensor:
    """Gives each finer site of an extent that is no multiple of the tensor's the features torch's 'nearest' takes.

    Args:
        x: (N, ...) features at a stride, with a `spatial_shape`.
        height, width: the finer extent.

    Raises:
        UnsupportedError: the input's history has no sites of that extent.
    """
    coords, shape, ratio = x.coords, x.spatial_shape, (1, 1, 1)
    plane = x.plan.plane
    while shape is None or (shape[plane[0]], shape[plane[1]]) != (height, width):
        origin = x.cache.origins.get(id(coords))
        if origin is None:
            raise UnsupportedError(f"Nearest up-sampling of {x!r} to {(height, width)}: its history has no such extent.")
        coords, shape = origin.parent, origin.parent_shape
        ratio = (ratio[0] * origin.stride[0], ratio[1] * origin.stride[1], ratio[2] * origin.stride[2])
    coarse = coords.clone()
    coarse[:, 1:] = torch.div(coords[:, 1:], coords.new_tensor(ratio), rounding_mode="floor")
    for axis, extent, old in zip(plane, (height, width), x.shape[-2:], strict=True):
        numbers = torch.arange(old, dtype=torch.float64, device=coords.device)[None, None]
        nearest = torch.nn.functional.interpolate(numbers, size=extent, mode="nearest")[0, 0]
        coarse[:, axis + 1] = nearest.to(coarse.dtype)[coords[:, axis + 1].long()]
    return _spread(x, coords, coarse, shape, ratio).with_plan(level=x.plan.level - (max(ratio).bit_length() - 1))


def _spread(x: SparseTensor, fine: Tensor, coarse: Tensor, shape: Triple | None, ratio: Triple) -> SparseTensor:
    """Gives the site `fine[i]` the features of the voxel `coarse[i]`."""
    key = ("parents", x.cache.key(fine), x.cache.key(x.coords), shape, x.spatial_shape)
    if key not in x.cache.derived:
        x.cache.derived[key] = _parent_rows(x, fine, coarse)
    old = (x.stride,) * 3 if isinstance(x.stride, int) else x.stride
    stride = simplify_stride((old[0] // ratio[0], old[1] // ratio[1], old[2] // ratio[2]))
    return x.derive(x.features.index_select(0, x.cache.derived[key]), coords=fine, spatial_shape=shape, stride=stride)


def _parent_rows(x: SparseTensor, fine: Tensor, coarse: Tensor) -> Tensor:
    """(N_fine,) int64: the row of `x` that stands at each coarse site."""
    both = torch.cat([x.coords, coarse])
    unique, inverse = unique_rows(both)
    rows = torch.full((len(unique),), -1, dtype=torch.int64, device=fine.device)
    rows[inverse[: len(x.coords)]] = torch.arange(len(x.coords), device=fine.device)
    found = rows[inverse[len(x.coords) :]]
    if bool((found < 0).any()):
        lost = fine[(found < 0).nonzero()[0, 0]].tolist()
        raise UnsupportedError(f"Nearest up-sampling: the fine voxel {lost} was cropped by a strided layer and has no parent.")
    return found
