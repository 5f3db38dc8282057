"""Integer voxel coordinates: checking, ordering, striding, shifting and cropping them.

A coordinate set is a (N, 4) int32 tensor with columns batch, z, y, x and no row twice. The tensor *object* is its identity:
two sparse tensors that hold the same object stand on the same sites. `SiteCache` remembers everything derived from one
input, so that layers which meet on the same sites get the same object and share kernel maps.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.geometry import Triple
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.voxel_keys import Box, column_bounds, pack_on_device, rank_keys
from i2p_zoo.wording import count_of

MAX_COORDINATE = 2**30


@dataclass
class Origin:
    """Where a strided coordinate set came from: its parent set, that one's extent, and the stride between them."""

    parent: Tensor
    parent_shape: Triple | None
    stride: Triple


@dataclass
class SiteCache:
    """What was derived from one input's sites: orders, strided sets, lines, kernel maps, batch rows. Holds arrays only."""

    orders: dict[int, Tensor | None] = field(default_factory=dict)
    origins: dict[int, Origin] = field(default_factory=dict)
    derived: dict[Hashable, Any] = field(default_factory=dict)
    kept: dict[int, Tensor] = field(default_factory=dict)

    def __reduce__(self) -> Any:
        """Copies and pickles as an empty cache: its keys are object identities, which do not survive either."""
        return (SiteCache, ())

    def key(self, coords: Tensor) -> int:
        """Returns a key for a coordinate tensor that stays its own as long as the cache lives."""
        self.kept[id(coords)] = coords
        return id(coords)

    def order(self, coords: Tensor) -> Tensor | None:
        """Returns the (N,) rows of `coords` in lexicographic order, or None where they stand so already."""
        key = self.key(coords)
        if key not in self.orders:
            self.orders[key] = sorting_order(coords)
        return self.orders[key]

    def start_anew(self, coords: Tensor, copy: Tensor) -> SiteCache:
        """Returns a cache for a copy of (N, 4) coordinates, on any device, that knows their order where this one does."""
        result, key = SiteCache(), self.key(coords)
        if key in self.orders:
            order = self.orders[key]
            result.orders[result.key(copy)] = None if order is None else order.to(copy.device)
        return result


def check_coords(coords: Tensor, batch_size: int | None, spatial_shape: Triple | None) -> tuple[Tensor, int, Tensor | None]:
    """Checks a user's coordinates.

    Args:
        coords: (N, 4) integer tensor, columns batch, z, y, x, in voxels, in any row order.
        batch_size: number of samples, or None for the largest batch id plus one.
        spatial_shape: extent (z, y, x) that all coordinates must lie in, or None for no border.

    Returns:
        The coordinates as contiguous int32, the batch size, and their sorting order (None if sorted).

    Raises:
        InvalidInputError: wrong shape or dtype, no rows, a coordinate out of range, a negative batch id or one beyond
            `batch_size`, a voxel outside `spatial_shape`, or a duplicate voxel.
    """
    if not isinstance(coords, Tensor) or coords.ndim != 2 or coords.shape[1] != 4:
        actual = tuple(coords.shape) if isinstance(coords, Tensor) else type(coords).__name__
        raise InvalidInputError(f"`coords` must be a (N, 4) tensor with columns batch, z, y, x; got {actual}.")
    if coords.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
        raise InvalidInputError(f"`coords` must be integers (int32); got {coords.dtype}. Use `voxelize` for points in metres.")
    if len(coords) == 0:
        raise InvalidInputError("`coords` has no rows: a sparse tensor needs at least one voxel.")
    survey = _survey(coords) if takes_device_path(coords) else None
    low, high = column_bounds(coords) if survey is None else (survey.low, survey.high)
    if min(low) < -MAX_COORDINATE or max(high) > MAX_COORDINATE:
        raise InvalidInputError(
            f"Coordinates must lie within +-2**30; got columns (batch, z, y, x) from {low} to {high}. "
            "Use a larger voxel size or move the points nearer to the origin."
        )
    if low[0] < 0:
        raise InvalidInputError(f"Batch ids (column 0 of `coords`) must not be negative; got {low[0]}.")
    try:
        size = high[0] + 1 if batch_size is None else operator.index(batch_size)
    except TypeError:
        raise InvalidInputError(f"`batch_size` must be a positive integer; got {batch_size!r}.") from None
    if size <= high[0]:
        raise InvalidInputError(f"`batch_size` (={size}) must exceed the largest batch id (={high[0]}).")
    if spatial_shape is not None:
        for axis, name in enumerate("zyx"):
            if low[axis + 1] < 0 or high[axis + 1] >= spatial_shape[axis]:
                raise InvalidInputError(
                    f"Coordinates along {name} run from {low[axis + 1]} to {high[axis + 1]}, outside `spatial_shape` "
                    f"{spatial_shape}, which holds 0 to {spatial_shape[axis] - 1}."
                )
    coords = coords.to(torch.int32).contiguous()
    if survey is not None:
        Box.around(low, high)
        if survey.repeats:
            _refuse_duplicates(coords, survey.keys, survey.order)
        return coords, size, None if survey.is_sorted else survey.order
    keys = pack(coords)
    order = None
    if bool((keys[1:] <= keys[:-1]).any()):
        keys, order = keys.sort()
        _refuse_duplicates(coords, keys, order)
    return coords, size, order


class _Survey(NamedTuple):
    """What there is to know of coordinates on a device, for one wait.

    Attributes:
        keys, order: (N,) int64, ascending, and the row of each.
        low, high: the least and the largest batch, z, y, x.
        is_sorted, repeats: whether rows stand in order, and whether any stands twice.
    """

    keys: Tensor
    order: Tensor
    low: list[int]
    high: list[int]
    is_sorted: bool
    repeats: bool


def _survey(coords: Tensor) -> _Survey:
    keys, box = pack_on_device(coords)
    ordered, order = keys.sort()
    flags = torch.stack([(keys[1:] > keys[:-1]).all(), (ordered[1:] == ordered[:-1]).any()])
    values = torch.cat([box[:2].flatten(), flags]).tolist()
    return _Survey(ordered, order, values[:4], values[4:8], bool(values[8]), bool(values[9]))


def _refuse_duplicates(coords: Tensor, keys: Tensor, order: Tensor) -> None:
    """Raises InvalidInputError where a voxel of (N, 4) coordinates stands twice; keys ascend, `order` is the row of each."""
    repeated = (keys[1:] == keys[:-1]).nonzero()
    if len(repeated):
        row = coords[order[repeated[0, 0]]].tolist()
        raise InvalidInputError(
            f"`coords` holds {count_of(len(repeated), 'duplicate voxel')}, the first (batch, z, y, x) = {row}. "
            "Use `voxelize`, which merges the points of a voxel."
        )


def pack(coords: Tensor) -> Tensor:
    """Packs each row of (N, 4) int32 coordinates into one int64 whose order is the rows' lexicographic order.

    Raises:
        InvalidInputError: the box around the coordinates has more than 2**62 voxels.
    """
    if takes_device_path(coords):
        keys, limits = pack_on_device(coords)
        Box.around(*limits[:2].tolist())
        return keys
    return torch.from_numpy(Box.around(*column_bounds(coords)).pack(coords))


def sorting_order(coords: Tensor) -> Tensor | None:
    """Returns the rows of (N, 4) coordinates in lexicographic order as (N,) int64, or None where they stand so already."""
    keys = pack_on_device(coords)[0] if takes_device_path(coords) else pack(coords)
    if bool((keys[1:] > keys[:-1]).all()):
        return None
    return keys.argsort()


def unique_rows(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sorted distinct rows (M, 4) of (N, 4) int32 coordinates, and for each row (N,) int64 which one it is."""
    if not len(coords):
        return coords, coords.new_empty(0, dtype=torch.int64)
    if takes_device_path(coords):
        return _unique_on_device(coords)
    box = Box.around(*column_bounds(coords))
    ranks = box.pack(coords, box.key_type)
    return box.unpack(rank_keys(ranks, box.volume)), torch.from_numpy(ranks).long()


def _unique_on_device(coords: Tensor) -> tuple[Tensor, Tensor]:
    """`unique_rows` for one wait, for the number of distinct rows and the bounds of all."""
    keys, limits = pack_on_device(coords)
    ordered, order = keys.sort()
    ranks = torch.cat([torch.zeros_like(ordered[:1]), (ordered[1:] != ordered[:-1]).cumsum(0)])
    *bounds, last = torch.cat([limits[:2].flatten(), ranks[-1:]]).tolist()
    Box.around(bounds[:4], bounds[4:])
    unique, inverse = coords.new_empty((last + 1, 4)), torch.empty_like(ranks)
    unique[ranks] = coords[order]
    inverse[order] = ranks
    return unique, inverse


def inside(coords: Tensor, spatial_shape: Triple) -> Tensor:
    """Returns (N,) bool: which coordinates lie in 0 <= c < spatial_shape."""
    z, y, x = ((column >= 0) & (column < extent) for column, extent in zip(coords.t()[1:], spatial_shape, strict=True))
    result: Tensor = z & y & x
    return result


def derive_sites(
    cache: SiteCache, coords: Tensor, shape: Triple | None, stride: Triple, shift: Triple, out_shape: Triple | None
) -> Tensor:
    """Returns the output sites of a window: unique floor(c / stride) - shift, cropped to `out_shape`.

    Args:
        cache: the cache that both coordinate sets belong to.
        coords: (N, 4) int32 input sites.
        shape: extent (z, y, x) of the input, or None for no border.
        stride: step (z, y, x) of the window.
        shift: sites are moved back by this much (z, y, x), as 'valid' padding does at stride 1.
        out_shape: extent of the output, or None.

    Returns:
        (M, 4) int32 sorted sites; the same object for the same request, and `coords` itself where nothing, the extent
        included, changes. So one object has one extent.
    """
    crop = out_shape
    if shape is not None and out_shape is not None:
        natural = [-(-extent // s) - d for extent, s, d in zip(shape, stride, shift, strict=True)]
        if shift == (0, 0, 0) and all(out >= n for out, n in zip(out_shape, natural, strict=True)):
            crop = None
    if stride == (1, 1, 1) and shift == (0, 0, 0) and crop is None and out_shape == shape:
        return coords
    key = ("sites", cache.key(coords), stride, shift, shape, out_shape)
    if key not in cache.derived:
        moved = move_sites(coords, stride, shift)
        if crop is not None:
            moved = moved[inside(moved, crop)]
            if len(moved) == 0:
                raise InvalidInputError(
                    f"No site is left of an input of extent {shape} (z, y, x) after a window of stride {stride}: "
                    f"the output extent is {out_shape}. Use a larger input."
                )
        if stride != (1, 1, 1):
            moved, _ = unique_rows(moved)
        moved = moved.contiguous()
        cache.derived[key] = moved
        if stride != (1, 1, 1):
            cache.origins[cache.key(moved)] = Origin(coords, shape, stride)
            cache.orders[cache.key(moved)] = None  # distinct rows are sorted rows
        elif len(moved) == len(coords) and cache.key(coords) in cache.orders:
            cache.orders[cache.key(moved)] = cache.order(coords)
    result: Tensor = cache.derived[key]
    return result


def move_sites(coords: Tensor, stride: Triple, shift: Triple) -> Tensor:
    """Returns floor(c / stride) - shift of (N, 4) sites."""
    if takes_device_path(coords):  # numbers of the host are arguments of a launch, tensors of it copies that wait
        batch, *columns = coords.t()
        places = [c if s == 1 else torch.div(c, s, rounding_mode="floor") for c, s in zip(columns, stride, strict=True)]
        return torch.stack([batch, *(c if not d else c - d for c, d in zip(places, shift, strict=True))], dim=1)
    steps, shifts = (torch.tensor(step, dtype=coords.dtype) for step in ((1, *stride), (0, *shift)))
    moved: Tensor = torch.div(coords, steps, rounding_mode="floor") - shifts
    return moved


def batch_index(cache: SiteCache, coords: Tensor, batch_size: int) -> RowIndex:
    """Returns which sample each site belongs to."""
    key = ("batch", cache.key(coords), batch_size)
    if key not in cache.derived:
        is_sorted = cache.orders.get(cache.key(coords), coords) is None
        cache.derived[key] = RowIndex(coords[:, 0].long(), batch_size, is_sorted=is_sorted)
    result: RowIndex = cache.derived[key]
    return result
