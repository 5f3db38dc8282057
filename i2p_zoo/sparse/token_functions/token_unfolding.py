"""Windows as channels and back, and windows that overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import Window, as_pair, insert_axis
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.sparse_convolution import with_window
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Atom, describe
from i2p_zoo.sparse.tokens.site_levels import finer_sites
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, require_sites
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, positive, replace_dim
from i2p_zoo.sparse.windows import plan_window


def _columns(x: SparseTensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Window, int]:
    """A window that is `stride` long along the third axis, so that every voxel lies in it."""
    kernel, stride, padding, dilation = as_pair(kernel), as_pair(stride), as_pair(padding), as_pair(dilation)
    window, level = plan_window(
        x, kernel, stride, ((padding[0],) * 2, (padding[1],) * 2), dilation, depth=max(stride), axis=x.plan.axis
    )
    before, after = (
        insert_axis((side[x.plan.plane[0]], side[x.plan.plane[1]]), 0, x.plan.axis) for side in (window.before, window.after)
    )
    return replace(window, before=before, after=after), level


def _taps(window: Window, axis: int) -> list[int]:
    """For each tap of a window which it is of the 2D kernel."""
    kernel = [size for at, size in enumerate(window.kernel) if at != axis]
    plane = torch.arange(kernel[0] * kernel[1]).view(insert_axis((kernel[0], kernel[1]), 1, axis))
    taps: list[int] = plane.expand(window.kernel).flatten().tolist()
    return taps


@token_op(F.unfold)
def unfold(x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The values of each window as channels, (B, C * taps, windows): of several voxels of a column the mean."""
    x = require_sites(x, "unfold")
    window, level = _columns(x, kernel_size, stride, padding, dilation)
    coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
    taps, size = _taps(window, x.plan.axis), as_pair(kernel_size)[0] * as_pair(kernel_size)[1]
    targets, sources = _pairs(kmap, taps, size, x.device)
    total = targets.sum(sources.take(x.features))
    values = (
        (total / targets.counts.clamp(min=1)[:, None].to(total.dtype)).view(len(coords), size, -1).transpose(1, 2).flatten(1)
    )
    out = as_tokens(with_window(x, values, coords, shape, window, level))
    return out.flatten(2)


def _pairs(kmap: Any, taps: list[int], size: int, device: Any) -> tuple[RowIndex, RowIndex]:
    """Of each pair the place of a window that it fills, and the voxel that it reads."""
    targets, sources = [], []
    for tap, inputs, outputs in kmap.pairs:
        everything = torch.arange(kmap.num_outputs, device=device)
        targets.append((everything if outputs is None else outputs) * size + taps[tap])
        sources.append(everything if inputs is None else inputs)
    return RowIndex(torch.cat(targets), kmap.num_outputs * size), RowIndex(torch.cat(sources), kmap.num_inputs)


@token_op(F.fold)
def fold(x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Adds windows up on the finer sites that they were made from; all voxels of a column get the column's value."""
    x = as_tokens(x)
    coarse = x.rows
    origin = coarse.cache.origins.get(id(coarse.coords))
    if coarse.level is None or coarse.prefix or (origin is None and as_pair(stride) != (1, 1)):
        raise UnsupportedError(f"`fold` of {x!r} to {output_size}: `unfold` made its windows of no finer sites.")
    site = SparseTensor.on_level(coarse.level, x.values, coarse.coords, coarse.cache, coarse.batch_size)
    fine = finer_sites(site, as_pair(stride)[0]) if origin is not None else site
    window, _ = _columns(fine, kernel_size, stride, padding, dilation)
    coords, _, kmap = window_sites(fine.cache, fine.coords, fine.spatial_shape, window)
    if fine.shape[-2:] != as_pair(output_size) or (coords is not coarse.coords and not torch.equal(coords, coarse.coords)):
        raise UnsupportedError(f"`fold` of {x!r} to {output_size}: `unfold` made its windows of {fine.shape[-2:]} sites.")
    size = as_pair(kernel_size)[0] * as_pair(kernel_size)[1]
    targets, sources = _pairs(kmap, _taps(window, fine.plan.axis), size, x.device)
    values = x.values.unflatten(1, (-1, size)).transpose(1, 2).flatten(0, 1)  # (windows * taps, C)
    return fine.derive(sources.sum(targets.take(values)), channels_last=False)


@token_op(Tensor.unfold)
def overlapping(x: Any, dimension: int, size: int, step: int) -> Any:
    """Windows along one side that may overlap: a site stands once in each window that it is in.

    The third axis goes with the height; along it windows are wider by as much on both sides, as halos are. Zeros of a padding
    that waits become sites where there is a border.
    """
    x = as_tokens(x)
    dimension = positive(x, dimension)
    dim, rows = x.dims[dimension], x.rows
    if len(dim) != 1 or not dim[0].is_whole_side or rows.prefix:
        raise UnsupportedError(
            f"`unfold` along dimension {dimension} of {x!r}: expected the whole height or width; got {describe((dim,))}."
        )
    (side,) = dim
    count = (side.extent - size) // step + 1
    key = ("overlapping", side.role, size, step)
    coords, source = rows.remember(key, lambda: _repeat_sites(rows, side, size, step))
    unfolded = rows.share(key, lambda: TokenRows(coords, rows.cache, rows.batch_size, rows.axis, bordered=rows.bordered))
    top, low = replace(side, extent=count, place=size), replace(side, extent=size, top=False)
    return TokenTensor(unfolded, [source.take(x.values)], (*replace_dim(x, dimension, (top,)), (low,)))


def _repeat_sites(rows: TokenRows, side: Atom, size: int, step: int) -> tuple[Tensor, RowIndex]:
    """A site for each window that a site is in, at window * size + place, and which row each is of."""
    coords, source = rows.coords, torch.arange(len(rows.coords), device=rows.coords.device)
    last = (side.extent - size) // step if rows.bordered else None
    coords, source = _repeat_along(coords, source, rows.column(side.role), 0, size, step, last)
    if side.role == "y":
        coords, source = _repeat_along(coords, source, 1 + rows.axis, (size - step) // 2, size, step, None)
    return coords, RowIndex(source, len(rows.coords))


def _repeat_along(
    coords: Tensor, source: Tensor, column: int, shift: int, size: int, step: int, last: int | None
) -> tuple[Tensor, Tensor]:
    at = coords[:, column].long() + shift
    parts, sources = [], []
    for back in range(-(-size // step)):
        window = torch.div(at, step, rounding_mode="floor") - back
        inside = at - window * step < size
        if last is not None:
            inside &= (window >= 0) & (window <= last)
        moved = coords[inside].clone()
        moved[:, column] = (window * size + at - window * step)[inside].int()
        parts.append(moved)
        sources.append(source[inside])
    return torch.cat(parts), torch.cat(sources)
