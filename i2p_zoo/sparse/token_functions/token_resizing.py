"""Bilinear and bicubic resizing of sites."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import pack
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import as_pair, insert_axis
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
    x = require_sites(x, "interpolate")
    height, width = x.shape[-2:]
    if size is None:
        factors = scale_factor if isinstance(scale_factor, list | tuple) else [scale_factor] * 2
        size = (int(height * factors[0]), int(width * factors[1]))
    size = as_pair(size)
    if size == (height, width):
        return x
    if mode == "bicubic" and not align_corners and not antialias:
        return _resample(x, size)
    if mode != "bilinear" or align_corners or antialias:
        raise UnsupportedError(
            f"`interpolate` of {x!r} with mode={mode!r}, align_corners={align_corners}, antialias={antialias}."
        )
    up = size[0] >= height
    ratios = [a / b for a, b in (zip(size, (height, width)) if up else zip((height, width), size))]
    if ratios[0] != ratios[1] or ratios[0] != int(ratios[0]):
        raise UnsupportedError(f"`interpolate` of {x!r} to {size}: only one whole factor.")
    factor = int(ratios[0])
    coarser, out = (None, finer_sites(x, factor)) if up else (None, coarser_sites(x, factor))
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
    features = total / weights.clamp(min=torch.finfo(x.dtype).tiny).view(-1, *[1] * (total.ndim - 1))
    return out.derive(features, channels_last=False)


def _cubic(part: Tensor) -> list[Tensor]:
    """torch's four weights of a position between the second and the third tap (Keys 1981 with a = -0.75)."""
    a, weights = -0.75, []
    for distance in (part + 1, part, 1 - part, 2 - part):
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weights.append(torch.where(distance <= 1, near, far))
    return weights


def _resample(x: SparseTensor, size: tuple[int, int]) -> SparseTensor:
    """Bicubic resizing of an image's sides by any factor; the third axis takes the nearest. A new site is where its nearest old one is.

    A tap without a voxel has the value of the nearest one; at the border of an image that is its edge, as in torch.
    """
    height, width = x.shape[-2:]
    plane = x.plan.plane
    factors = [size[0] / height] * 3
    factors[plane[1]] = size[1] / width
    coords = x.coords.long()
    parts = [coords[:, :1]]
    reach = [int(-(-f // 1)) for f in factors]
    steps = torch.tensor(list(itertools.product(*(range(r) for r in reach))), device=x.device)
    scale = torch.tensor(factors, device=x.device, dtype=torch.float64)
    first = (coords[:, 1:].double() * scale - 0.5).ceil().long()
    targets = first[:, None] + steps[None]
    nearest = ((targets.double() + 0.5) / scale).floor().long()
    valid = (nearest == coords[:, None, 1:]).all(-1)
    source = torch.arange(len(coords), device=x.device)[:, None].expand(-1, len(steps))[valid]
    sites = torch.cat([parts[0][source], targets[valid]], 1).int()
    order = sites_order(sites)
    sites, source = sites[order].contiguous(), source[order]
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
    shape = (
        None
        if x.spatial_shape is None
        else insert_axis(size, max(1, int(x.spatial_shape[x.plan.axis] * factors[0])), x.plan.axis)
    )
    out = x.derive(total, coords=sites, spatial_shape=shape)
    if x.canvas is not None:
        out.canvas = size
    return out


def sites_order(sites: Tensor) -> Tensor:
    """The lexicographic order of (N, 4) sites."""
    return pack(sites).argsort()
