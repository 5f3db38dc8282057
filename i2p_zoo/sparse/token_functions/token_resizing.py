"""Bilinear and bicubic resizing of sites."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import pack
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import Pair, as_pair, insert_axis
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_levels import coarser_sites, finer_sites
from i2p_zoo.sparse.tokens.site_tokens import require_sites
from i2p_zoo.sparse.tokens.token_rows import find_rows


@token_op(F.interpolate)
def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> SparseTensor:
    """Linear resizing by a whole factor, up or down: the mean of the nearest sites that there are, weighted as torch does.

    At a border torch takes the edge for what lies beyond; leaving out what is not there is the same.
    """
    sites = require_sites(x, "interpolate")
    height, width = sites.shape[-2:]
    if size is None:
        factors = scale_factor if isinstance(scale_factor, list | tuple) else [scale_factor] * 2
        size = (int(height * factors[0]), int(width * factors[1]))
    target = as_pair(size)
    if target == (height, width):
        return sites
    if mode == "bicubic" and not align_corners and not antialias:
        return _resample(sites, target)
    if mode != "bilinear" or align_corners or antialias:
        raise UnsupportedError(
            f"`interpolate` of {x!r} with mode={mode!r}, align_corners={align_corners}, antialias={antialias}: only "
            "'bilinear' by whole factors and 'bicubic', without align_corners and antialias."
        )
    return _resize_linearly(sites, target)


def _resize_linearly(x: SparseTensor, size: Pair) -> SparseTensor:
    height, width = x.shape[-2:]
    up = size[0] >= height
    factor, rest = divmod(size[0], height) if up else divmod(height, size[0])
    ends = (size, (height, width)) if up else ((height, width), size)
    if rest or ends[0] != (ends[1][0] * factor, ends[1][1] * factor):
        raise UnsupportedError(
            f"`interpolate` of {x!r}, seen as {(height, width)}, to {size} with mode='bilinear': only one whole factor, the "
            "same for height and width."
        )
    out = finer_sites(x, factor) if up else coarser_sites(x, factor)
    if out.shape[-2:] != size:
        raise UnsupportedError(f"`interpolate` of {x!r} to {size} with mode='bilinear': its sites come from {out.shape[-2:]}.")
    scale = 1 / factor if up else float(factor)
    at = (out.coords[:, 1:].double() + 0.5) * scale - 0.5
    low = at.floor()
    part = (at - low).to(x.dtype)
    total = x.features.new_zeros((len(out.coords), *x.features.shape[1:]))
    weights = x.features.new_zeros(len(out.coords))
    padded = torch.cat([x.features, x.features.new_zeros((1, *x.features.shape[1:]))])
    new_axis = x.plan.axis
    column = range(factor) if not up else (0, 1)  # down, the mean of the column; up, linear as along the sides
    for corner in itertools.product(*(column if axis == new_axis else (0, 1) for axis in range(3))):
        step = torch.tensor(corner, device=at.device)
        shares = torch.where(step.bool(), part, 1 - part)
        target = (low + step).int()
        if not up:
            shares[:, new_axis] = 1.0
            target[:, new_axis] = out.coords[:, 1 + new_axis] * factor + corner[new_axis]
        weight = shares.prod(1)
        row = find_rows(x.coords, torch.cat([out.coords[:, :1], target], 1), missing=True)
        weight = weight * (row >= 0)
        total = total + padded[row] * weight.view(-1, *[1] * (total.ndim - 1))
        weights = weights + weight
    return out.derive(total / weights.clamp(min=torch.finfo(x.dtype).tiny).view(-1, *[1] * (total.ndim - 1)))


def _cubic(part: Tensor) -> list[Tensor]:
    """The four weights of a position between the second and the third tap, torch's (Keys, 1981, with a = -0.75)."""
    a, weights = -0.75, []
    for distance in (part + 1, part, 1 - part, 2 - part):
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weights.append(torch.where(distance <= 1, near, far))
    return weights


def _resample(x: SparseTensor, size: Pair) -> SparseTensor:
    """Bicubic resizing of an image's sides by any factor; the third axis takes the nearest.

    A new site is where its nearest old one is. A tap without a voxel has the value of the nearest one; at the border of an
    image that is its edge, as in torch.
    """
    height, width = x.shape[-2:]
    plane = x.plan.plane
    factors = [size[0] / height] * 3
    factors[plane[1]] = size[1] / width
    sites, source = _nearest_sites(x, factors)
    scale = torch.tensor(factors, device=x.device, dtype=torch.float64)
    at = (sites[:, 1:].double() + 0.5) / scale - 0.5
    low = at.floor()
    weights = {axis: _cubic((at - low)[:, axis].to(x.dtype)) for axis in plane}
    total = x.features.new_zeros((len(sites), x.features.shape[1]))
    for i, j in itertools.product(range(4), repeat=2):
        target = x.coords[source].clone()
        for axis, tap in zip(plane, (i, j), strict=True):
            place = low[:, axis].long() + tap - 1
            if x.spatial_shape is not None:
                place = place.clamp(0, x.spatial_shape[axis] - 1)
            target[:, 1 + axis] = place.int()
        rows = find_rows(x.coords, target, missing=True)
        rows = torch.where(rows < 0, source, rows)
        total = total + x.features[rows] * (weights[plane[0]][i] * weights[plane[1]][j])[:, None]
    shape = None
    if x.spatial_shape is not None:
        shape = insert_axis(size, max(1, int(x.spatial_shape[x.plan.axis] * factors[0])), x.plan.axis)
    return x.derive(total, coords=sites, spatial_shape=shape, canvas=x.canvas and size)


def _nearest_sites(x: SparseTensor, factors: list[float]) -> tuple[Tensor, Tensor]:
    """(M, 4) sorted sites of a finer or coarser grid whose nearest old site there is, and (M,) which that is."""
    scale = torch.tensor(factors, device=x.device, dtype=torch.float64)
    reach = (range(math.ceil(factor)) for factor in factors)
    steps = torch.tensor(list(itertools.product(*reach)), device=x.device)
    old = x.coords[:, None, 1:].long()
    targets = (old.double() * scale - 0.5).ceil().long() + steps
    inside = (((targets.double() + 0.5) / scale).floor().long() == old).all(-1)
    source = torch.arange(len(x.coords), device=x.device)[:, None].expand(-1, len(steps))[inside]
    sites = torch.cat([x.coords[source, :1].long(), targets[inside]], 1).int()
    order = pack(sites).argsort()
    return sites[order].contiguous(), source[order]
