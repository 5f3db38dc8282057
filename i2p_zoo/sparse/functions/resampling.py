"""Windows: pooling, padding and up-sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, sparse_op
from i2p_zoo.sparse.geometry import Padding, Pair, as_pair
from i2p_zoo.sparse.pooling import average_pool, max_pool, reduce_sites
from i2p_zoo.sparse.tensor import SparseTensor, require_channels_first
from i2p_zoo.sparse.upsampling import upsample_nearest, upsample_to_extent
from i2p_zoo.sparse.windows import plan_window


@sparse_op(F.max_pool2d, torch.max_pool2d, takes_padding=True)
def max_pool2d(
    x: SparseTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SparseTensor:
    """Maximum over the active voxels of a cubic window."""
    if return_indices:
        raise UnsupportedError("`max_pool2d` on a sparse tensor cannot return indices.")
    kernel, pads = as_pair(kernel_size), as_pair(padding)
    x = _cut_off(x, pads, ceil_mode)
    window, level = plan_window(
        x, kernel, as_pair(stride or kernel), ((pads[0],) * 2, (pads[1],) * 2), as_pair(dilation), ceil_mode=ceil_mode
    )
    return max_pool(x, window, level)


@sparse_op(F.avg_pool2d, takes_padding=True)
def avg_pool2d(
    x: SparseTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> SparseTensor:
    """Average over a cubic window (`i2p_zoo.sparse.pooling.average_pool`)."""
    kernel, pads = as_pair(kernel_size), as_pair(padding)
    x = _cut_off(x, pads, ceil_mode)
    window, level = plan_window(x, kernel, as_pair(stride or kernel), ((pads[0],) * 2, (pads[1],) * 2), ceil_mode=ceil_mode)
    return average_pool(x, window, level, count_padding=count_include_pad, divisor=divisor_override)


def _cut_off(x: SparseTensor, pads: Pair, ceil_mode: bool) -> SparseTensor:
    """Cuts off now what the 2D network cut off and a window would see, by its own padding or its rounded-up end."""
    cuts = (x.padding.rows, x.padding.columns)
    is_seen = any((p > 0 and min(cut) < 0) or (ceil_mode and cut[1] < 0) for p, cut in zip(pads, cuts, strict=True))
    if not is_seen:
        return x
    (top, bottom), (left, right) = cuts
    bare = x.derive(x.features, padding=Padding())
    cut = bare.pad_sites((min(top, 0), min(bottom, 0)), (min(left, 0), min(right, 0)))
    left_over = Padding((max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), x.padding.zeros)
    return cut.derive(cut.features, padding=left_over)


def _global_pool(x: SparseTensor, output_size: Any, reduction: str, name: str) -> Any:
    require_channels_first(x, name)
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if size == (1, 1):
        return reduce_sites(x, reduction)[..., None, None]
    if all(s is None or s == e for s, e in zip(size, x.shape[-2:], strict=True)):
        return x
    raise UnsupportedError(f"`{name}` of {x!r} to {output_size}: a sparse tensor can be pooled to 1 or to its own extent only.")


@sparse_op(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x: SparseTensor, output_size: Any) -> Any:
    """Mean over each sample's voxels, (B, C, 1, 1)."""
    return _global_pool(x, output_size, "mean", "adaptive_avg_pool2d")


@sparse_op(F.adaptive_max_pool2d)
def adaptive_max_pool2d(x: SparseTensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over each sample's voxels, (B, C, 1, 1)."""
    return _global_pool(x, output_size, "amax", "adaptive_max_pool2d")


@sparse_op(*methods("pad"), takes_padding=True)
def pad(x: SparseTensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> SparseTensor:
    """Pads height and width by zeros (or by -inf before a maximum) for the window that follows."""
    if mode != "constant" or value not in (None, 0, -math.inf) or any(pad[4:]):
        raise UnsupportedError(
            f"`pad` of {x!r} by {tuple(pad)} with mode={mode!r}, value={value}: only zeros around the image."
        )
    require_channels_first(x, "pad")
    left, right, top, bottom = [*pad, 0, 0][:4]
    zeros, grows = value != -math.inf, max(left, right, top, bottom) > 0
    old = x.padding
    grew = max(*old.rows, *old.columns) > 0
    sides = zip((*old.rows, *old.columns), (top, bottom, left, right), strict=True)
    if any(a * b < 0 for a, b in sides) or (grows and grew and old.zeros != zeros):
        x, old = x.apply_padding(), Padding()  # what was cut off does not come back, and zeros stay apart from -inf
    padding = Padding(
        (old.rows[0] + top, old.rows[1] + bottom),
        (old.columns[0] + left, old.columns[1] + right),
        old.zeros or (grows and zeros),
    )
    padded = x.derive(x.features, padding=padding)
    if min(padded.shape[-2:]) < 1:
        raise InvalidInputError(f"Padding {x!r} by {tuple(pad)} leaves the extent {padded.shape[-2:]} (height, width).")
    return padded


@sparse_op(F.interpolate, takes_padding=True)
def interpolate(
    x: SparseTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> SparseTensor:
    """Nearest up-sampling onto the finer sites that the tensor was strided from."""
    require_channels_first(x, "interpolate")
    x = x.apply_padding()
    if mode != "nearest":
        raise UnsupportedError(f"`interpolate` of {x!r} with mode={mode!r}: only 'nearest' has a sparse counterpart.")
    if scale_factor is not None:
        factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor]
    else:
        sizes = as_pair(size)
        factors = [new / old for new, old in zip(sizes, x.shape[-2:], strict=True)]
        if x.spatial_shape is None and min(factors) < 1:
            raise UnsupportedError(f"`interpolate` of {x!r} to size {size}: a cloud without a border has no size.")
        is_whole = factors[0] == factors[1] == int(factors[0])
        if x.spatial_shape is not None and min(factors) >= 1 and not is_whole:
            return upsample_to_extent(x, *sizes)
    if any(factor != factors[0] or factor != int(factor) for factor in factors):
        raise UnsupportedError(f"`interpolate` of {x!r} by {factors}: only one whole factor.")
    return x if factors[0] == 1 else upsample_nearest(x, int(factors[0]))
