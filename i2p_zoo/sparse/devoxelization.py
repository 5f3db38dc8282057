"""From voxels back to points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.geometry import Window
from i2p_zoo.sparse.kernel_maps import kernel_map
from i2p_zoo.sparse.pooling import in_single
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.site_search import search_table
from i2p_zoo.sparse.tensor import SparseTensor


def devoxelize(x: SparseTensor, positions: Tensor, index: Tensor | None = None, mode: str = "trilinear") -> Tensor:
    """Gives each point the features of its voxel, or interpolates between the voxels around it.

    Args:
        x: (N, C) features.
        positions: (P, 4) points: the number of the cloud, then z, y, x in voxels of `x`, so that voxel c is centred on c + 0.5.
        index: (P,) int64 row of each point's voxel, as `i2p_zoo.voxelize(..., return_index=True)` gives it; needed for
            "nearest", and by "trilinear" for points none of whose eight neighbours exists.
        mode: "nearest" or "trilinear". Voxels that do not exist are left out of a mean, whose weights then sum to 1 again.

    Returns:
        (P, C).

    Raises:
        InvalidInputError: an unknown mode, or no `index`.

    Example:
        >>> x = SparseTensor(torch.tensor([[0.0], [1.0]]), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]))
        >>> devoxelize(x, torch.tensor([[0.0, 0.5, 0.5, 0.75]]), torch.tensor([0])).item()
        0.25
    """
    if mode not in ("nearest", "trilinear") or index is None:
        raise InvalidInputError(f"`mode` must be 'nearest' or 'trilinear' and `index` be given; got {mode!r} and {index}.")
    if mode == "nearest":
        return RowIndex(index, len(x.features)).take(x.features)
    corner = torch.floor(positions[:, 1:].double() - 0.5)
    part = positions[:, 1:].double() - 0.5 - corner  # (P, 3), how far towards the upper neighbour
    coords = torch.cat([positions[:, :1].int(), corner.int()], dim=1)
    features = in_single(x).features
    out = features.new_zeros((len(positions), features.shape[1]))
    total = features.new_zeros((len(positions), 1))
    for tap, source in _find_corners(x, coords):
        bits = ((tap >> 2) & 1, (tap >> 1) & 1, tap & 1)
        weight = torch.stack([part[:, a] if bit else 1 - part[:, a] for a, bit in enumerate(bits)], 1).prod(1)
        known = (source >= 0).to(features.dtype)
        weight = (weight.to(features.dtype) * known)[:, None]
        out = out + weight * RowIndex(source, len(features), has_missing=True).take(features)
        total = total + weight
    lone = total < 1e-6
    return torch.where(lone, RowIndex(index, len(features)).take(features), out / total.clamp(min=1e-6)).to(x.dtype)


def _find_corners(x: SparseTensor, coords: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Gives of each corner of a 2x2x2 window its number and its voxel's row (P,) int64, -1 for none, at (P, 4) places."""
    window = Window(kernel=(2, 2, 2))
    if takes_device_path(coords):
        yield from enumerate(search_table(x.cache, x.coords, coords, window).long())
        return
    places, row = unique_rows(coords)
    kmap = kernel_map(x.cache, x.coords, places.contiguous(), window)
    for tap, table in zip(kmap.taps, kmap.table, strict=True):
        yield tap, table.long()[row]
