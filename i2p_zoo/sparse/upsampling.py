"""Nearest up-sampling, onto the finer sites that a tensor was strided from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.geometry import Triple, Window, simplify_stride, unfold_stride
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.site_search import search_table
from i2p_zoo.sparse.tensor import SparseTensor


class _Sites(NamedTuple):
    """Sites that a tensor was strided from, or its own.

    Attributes:
        coords: (N, 4).
        shape: their extent (z, y, x), or None.
        ratio: how many of their voxels (z, y, x) are one of the tensor's.
    """

    coords: Tensor
    shape: Triple | None
    ratio: Triple


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
    level, skip = x.plan.level, x.plan.skip_downsamples
    new_level = max(level - (factor.bit_length() - 1), 0)
    finer = 2 ** (max(level - skip, 0) - max(new_level - skip, 0)) if skip else factor  # skipped halvings changed no site
    for fine in _trace_back(x):
        if max(fine.ratio) >= finer:
            break
    else:
        raise UnsupportedError(
            f"Nearest up-sampling by {factor} needs the finer sites that the tensor was strided from; its history goes "
            f"back by a factor of {fine.ratio} (z, y, x) only. Up-sample tensors that came from a strided layer."
        )
    if fine.ratio != (finer,) * 3:
        raise UnsupportedError(f"Nearest up-sampling by {factor} does not undo strides of {fine.ratio} (z, y, x).")
    if finer == 1:
        return x.with_plan(level=new_level)
    return _spread(x, fine, _parents(fine)).with_plan(level=new_level)


def upsample_to_extent(x: SparseTensor, height: int, width: int) -> SparseTensor:
    """Gives each finer site of an extent that is no multiple of the tensor's the features torch's 'nearest' takes.

    Args:
        x: (N, ...) features at a stride, with a `spatial_shape`.
        height, width: the finer extent.

    Raises:
        UnsupportedError: the input's history has no sites of that extent.
    """
    plane = x.plan.plane
    for fine in _trace_back(x):
        if fine.shape is not None and (fine.shape[plane[0]], fine.shape[plane[1]]) == (height, width):
            break
    else:
        raise UnsupportedError(f"Nearest up-sampling of {x!r} to {(height, width)}: its history has no such extent.")
    coarse = _parents(fine)
    for axis, extent, old in zip(plane, (height, width), x.shape[-2:], strict=True):
        numbers = torch.arange(old, dtype=torch.float64, device=x.device)[None, None]
        nearest = F.interpolate(numbers, size=extent, mode="nearest")[0, 0]
        coarse[:, axis + 1] = nearest.to(coarse.dtype)[fine.coords[:, axis + 1].long()]
    return _spread(x, fine, coarse).with_plan(level=x.plan.level - (max(fine.ratio).bit_length() - 1))


def _trace_back(x: SparseTensor) -> Iterator[_Sites]:
    """Gives the sites of `x`, then those that it was strided from, ever finer."""
    coords, shape, ratio = x.coords, x.spatial_shape, (1, 1, 1)
    yield _Sites(coords, shape, ratio)
    while (origin := x.cache.origins.get(id(coords))) is not None:
        coords, shape = origin.parent, origin.parent_shape
        ratio = (ratio[0] * origin.stride[0], ratio[1] * origin.stride[1], ratio[2] * origin.stride[2])
        yield _Sites(coords, shape, ratio)


def _parents(fine: _Sites) -> Tensor:
    """(N, 4): the voxel that each fine site lies in."""
    batch, *columns = fine.coords.t()
    places = [torch.div(column, step, rounding_mode="floor") for column, step in zip(columns, fine.ratio, strict=True)]
    return torch.stack([batch, *places], dim=1)


def _spread(x: SparseTensor, fine: _Sites, coarse: Tensor) -> SparseTensor:
    """Gives each fine site the features of the voxel at its place in `coarse`."""
    key = ("parents", x.cache.key(fine.coords), x.cache.key(x.coords), fine.shape, x.spatial_shape)
    if key not in x.cache.derived:
        x.cache.derived[key] = RowIndex(_parent_rows(x, fine.coords, coarse), len(x.coords))
    features = x.cache.derived[key].take(x.features)
    old, ratio = unfold_stride(x.stride), fine.ratio
    stride = simplify_stride((old[0] // ratio[0], old[1] // ratio[1], old[2] // ratio[2]))
    canvas = x.canvas
    if canvas is not None:
        height, width = x.plan.plane
        canvas = (canvas[0] * ratio[height], canvas[1] * ratio[width])
    return x.derive(features, coords=fine.coords, spatial_shape=fine.shape, stride=stride, canvas=canvas)


def _parent_rows(x: SparseTensor, fine: Tensor, coarse: Tensor) -> Tensor:
    """(N_fine,) int64: the row of `x` that stands at each coarse site."""
    if takes_device_path(coarse):
        parents = search_table(x.cache, x.coords, coarse, Window(kernel=(1, 1, 1)))[0].long()
        if bool((parents < 0).any()):
            _refuse_lost(parents, fine)
        return parents
    unique, inverse = unique_rows(torch.cat([x.coords, coarse]))
    row_of = torch.full((len(unique),), -1, dtype=torch.int64, device=fine.device)
    row_of[inverse[: len(x.coords)]] = torch.arange(len(x.coords), device=fine.device)
    parents = row_of[inverse[len(x.coords) :]]
    _refuse_lost(parents, fine)
    return parents


def _refuse_lost(parents: Tensor, fine: Tensor) -> None:
    lost = (parents < 0).nonzero()
    if len(lost):
        site = fine[lost[0, 0]].tolist()
        raise UnsupportedError(f"Nearest up-sampling: the fine voxel {site} was cropped by a strided layer and has no parent.")
