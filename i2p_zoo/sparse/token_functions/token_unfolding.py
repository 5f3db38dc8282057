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
from i2p_zoo.sparse.sparse_convolution import with_window
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_levels import finer_sites
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, require_sites
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, positive
from i2p_zoo.sparse.windows import plan_window


def _columns(x: SparseTensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Window, int]:
    """A window that is `stride` long along the third axis, so that every voxel lies in it."""
    kernel, stride, padding, dilation = as_pair(kernel), as_pair(stride), as_pair(padding), as_pair(dilation)
    window, level = plan_window(
        x, kernel, stride, ((padding[0],) * 2, (padding[1],) * 2), dilation, depth=max(stride), axis=x.plan.axis
    )
    before, after = list(window.before), list(window.after)
    before[x.plan.axis] = after[x.plan.axis] = 0
    return replace(window, before=tuple(before), after=tuple(after)), level


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
    total = x.features.new_zeros((len(coords) * size, x.features.shape[1])).index_add(0, targets, x.features[sources])
    count = torch.bincount(targets, minlength=len(total)).clamp(min=1)
    values = (total / count[:, None].to(total.dtype)).view(len(coords), size, -1).transpose(1, 2).flatten(1)
    out = as_tokens(with_window(x, values, coords, shape, window, level))
    return out.flatten(2)


def _pairs(kmap: Any, taps: list[int], size: int, device: Any) -> tuple[Tensor, Tensor]:
    targets, sources = [], []
    for tap, inputs, outputs in kmap.pairs:
        everything = torch.arange(kmap.num_outputs, device=device)
        targets.append((everything if outputs is None else outputs) * size + taps[tap])
        sources.append(everything if inputs is None else inputs)
    return torch.cat(targets), torch.cat(sources)


@token_op(F.fold)
def fold(x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Adds windows up on the finer sites that they were made from; all voxels of a column get the column's value."""
    x = as_tokens(x)
    coarse, site = x.rows, x.rows.site
    origin = x.rows.cache.origins.get(id(coarse.coords)) if site is not None else None
    if site is None or (origin is None and as_pair(stride) != (1, 1)):
        raise UnsupportedError(f"`fold` of {x!r}: its windows were made from no finer sites.")
    fine = finer_sites(site, as_pair(stride)[0]) if origin is not None else site
    window, _ = _columns(fine.derive(x.values[:0]), kernel_size, stride, padding, dilation)
    coords, _, kmap = window_sites(fine.cache, fine.coords, fine.spatial_shape, window)
    if coords is not coarse.coords and not torch.equal(coords, coarse.coords):
        raise UnsupportedError(f"`fold` of {x!r}: its windows were made from no finer sites.")
    size = as_pair(kernel_size)[0] * as_pair(kernel_size)[1]
    targets, sources = _pairs(kmap, _taps(window, fine.plan.axis), size, x.device)
    values = x.values.unflatten(1, (-1, size)).transpose(1, 2).flatten(0, 1)  # (windows * taps, C)
    out = values.new_zeros((len(fine.coords), values.shape[1])).index_add(0, sources, values[targets])
    return fine.derive(out, channels_last=False)


@token_op(Tensor.unfold)
def overlapping(x: Any, dimension: int, size: int, step: int) -> Any:
    """Windows along one side that may overlap: a site stands once in each window that it is in. The third axis goes with the height.

    A padding by zeros that waits becomes sites where there is a border; along the third axis windows are wider by as much on both
    sides, as halos are.
    """
    x = as_tokens(x)
    dimension = positive(x, dimension)
    (atom,) = x.dims[dimension]
    if atom.role not in "yx" or atom.place != 1 or not atom.top or x.rows.prefix:
        raise UnsupportedError(f"`unfold` of {x!r} along {dimension}.")
    rows = x.rows
    columns = [(rows.plane["yx".index(atom.role)], 0)]
    if atom.role == "y":
        columns.append((rows.axis, (size - step) // 2))

    def make() -> tuple[Tensor, Tensor]:
        coords, source = rows.coords, torch.arange(len(rows.coords), device=rows.coords.device)
        for column, shift in columns:
            at = coords[:, 1 + column].long() + shift
            parts, sources = [], []
            last = torch.div(at, step, rounding_mode="floor")
            for back in range(-(-size // step)):
                window = last - back
                inside = at - window * step < size
                if column == rows.plane["yx".index(atom.role)]:
                    inside &= (window >= 0) & (window <= (atom.extent - size) // step) if bounded else inside
                moved = coords[inside].clone()
                moved[:, 1 + column] = (window * size + at - window * step)[inside].int()
                parts.append(moved)
                sources.append(source[inside])
            coords, source = torch.cat(parts), torch.cat(sources)
        return coords, source

    bounded = rows.site is not None and rows.site.spatial_shape is not None
    key = ("overlapping", atom.role, size, step)
    coords, source = rows.remember(key, make)
    border = rows.site if bounded else None  # for the other side
    unfolded = rows.share(key, lambda: TokenRows(coords, rows.cache, rows.batch_size, rows.axis, site=border, is_level=False))
    count = (atom.extent - size) // step + 1
    top, low = replace(atom, extent=count, place=size), replace(atom, extent=size, top=False)
    dims = (*x.dims[:dimension], (top,), *x.dims[dimension + 1 :], (low,))
    features = [0] + [1 + i for i in range(x.values.ndim - 1)]
    return TokenTensor(unfolded, [x.values.index_select(0, source).permute(features)], dims)
