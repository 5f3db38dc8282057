"""Which voxel each point lies in, and the mean of what the points of a voxel carry."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.coordinates import MAX_COORDINATE, unique_rows
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.kernels import keys as key_kernels
from i2p_zoo.sparse.kernels import voxel_means
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks
from i2p_zoo.sparse.voxel_keys import Box, column_bounds, rank_keys


class Positions(NamedTuple):
    """Where the points of a cloud lie, as `read_positions` gives it.

    Attributes:
        rows: (N, 3) x, y, z, float32 or float64.
        low, high: (3,) float64, the least and the largest of each column.
        precision: relative rounding of the type that they were given in; 0 for integers.
    """

    rows: Tensor
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    precision: float


def read_positions(clouds: list[Tensor], voxel_size: float) -> list[Positions]:
    """Returns the first three columns of clouds of finite (N, 3 + K) points of any real type.

    Raises:
        InvalidInputError: a cloud reaches beyond +-2**30 voxels, or to where its type has merged voxels.
    """
    columns = [points[:, :3].detach() for points in clouds]
    rows = [(part if part.dtype == torch.float32 else part.double()).contiguous() for part in columns]  # for large integers
    positions = []
    for number, (part, place, bounds) in enumerate(zip(columns, rows, _bounds(rows), strict=True)):
        low, high = (np.array(bound, np.float64) for bound in bounds)
        precision = torch.finfo(part.dtype).eps if part.dtype.is_floating_point else 0.0
        _check_reach(float(np.maximum(-low, high).max()), part.dtype, precision, voxel_size, number)
        positions.append(Positions(place, low, high, precision))
    return positions


def _bounds(clouds: list[Tensor]) -> list[Any]:
    """The least and the largest value of each column of each cloud; a device is waited for once."""
    if not takes_device_path(clouds[0]):
        return [column_bounds(rows) for rows in clouds]
    bounds: list[Any] = torch.stack([torch.stack(torch.aminmax(rows, dim=0)).double() for rows in clouds]).tolist()
    return bounds


def find_voxels(clouds: list[Positions], voxel_size: float) -> tuple[Tensor, Tensor]:
    """Finds the voxel floor(p / voxel_size) of each point, in float64.

    A coordinate that is a voxel's border but for its type's rounding, as 0.15 of voxels of 0.05, lies on the border.

    Args:
        clouds: the points of each cloud, all on one device.
        voxel_size: edge of a voxel.

    Returns:
        The sorted voxels (M, 4) int32, columns number of the cloud, z, y, x; and of each point, clouds one after the other,
        which of them it is in: (total points,) int32 or int64.

    Raises:
        InvalidInputError: the box around all has more than 2**62 voxels.
    """
    slacks = [max(cloud.precision, 2 * float(np.finfo(np.float64).eps)) for cloud in clouds]
    if takes_device_path(clouds[0].rows):
        return unique_rows(_cells(clouds, voxel_size, slacks))
    bounds = zip(clouds, slacks, strict=True)
    cells = [_floor(np.stack([cloud.low, cloud.high])[:, ::-1] / voxel_size, slack) for cloud, slack in bounds]  # z, y, x
    low, high = np.min(cells, 0)[0].astype(np.int64), np.max(cells, 0)[1].astype(np.int64)
    box = Box.around([0, *low.tolist()], [len(clouds) - 1, *high.tolist()])
    keys = np.empty(sum(len(cloud.rows) for cloud in clouds), box.key_type)
    first, volume, extents = 0, box.volume // len(clouds), np.array(box.extents[1:])
    for number, (cloud, slack) in enumerate(zip(clouds, slacks, strict=True)):
        part = keys[first : first + len(cloud.rows)]
        arrays = (cloud.rows, float(voxel_size), slack, low, extents, number * volume, part)
        run_chunks(key_kernels.pack_points, chunk_bounds(len(cloud.rows)), *arrays)
        first += len(cloud.rows)
    distinct = rank_keys(keys, box.volume)
    return box.unpack(distinct), torch.from_numpy(keys)


def _check_reach(largest: float, dtype: torch.dtype, precision: float, voxel_size: float, number: int) -> None:
    if not largest / voxel_size <= MAX_COORDINATE:
        raise InvalidInputError(
            f"Cloud {number} reaches voxel {largest / voxel_size:.3g} at voxel_size={voxel_size}; coordinates must lie within "
            "+-2**30. Use a larger voxel size or move the cloud nearer to the origin."
        )
    step = math.ldexp(precision, math.frexp(largest)[1] - 1)
    if step > voxel_size / 2:
        name = str(dtype).removeprefix("torch.")
        raise InvalidInputError(
            f"Cloud {number} reaches {largest:.7g}, where {name} has steps of {step:.3g}: points of different voxels of "
            f"{voxel_size} have merged. Subtract the mean of the coordinates while they are float64, or give them as float64."
        )


def _floor(cells: NDArray[np.float64], slack: float) -> NDArray[np.float64]:
    return np.floor(cells + np.abs(cells) * slack)


def _cells(clouds: list[Positions], voxel_size: float, slacks: list[float]) -> Tensor:
    """The (N, 4) int32 number, z, y, x of the points of all clouds on a device."""
    if len(set(slacks)) == 1:  # of one type: as many launches for any number of clouds
        parts = [(torch.cat([cloud.rows for cloud in clouds]), slacks[0])]
    else:
        parts = [(cloud.rows, slack) for cloud, slack in zip(clouds, slacks, strict=True)]
    cells = [(rows.double() / voxel_size, slack) for rows, slack in parts]
    floors = torch.cat([torch.floor(cell + cell.abs() * slack) for cell, slack in cells]).int()
    each = torch.arange(len(clouds), dtype=torch.int32, device=floors.device)
    numbers = torch.cat([number.expand(len(cloud.rows)) for number, cloud in zip(each, clouds, strict=True)])
    return torch.cat([numbers[:, None], floors.flip(1)], dim=1)


def average_voxels(values: Tensor, index: Tensor, voxels: int) -> Tensor:
    """Returns the mean (voxels, C) of the points' values (N, C), summed in float64, by each point's voxel (N,).

    In float32 the mean of many points can leave their voxel. A voxel's points are added in their order, so that runs give the
    same bits.
    """
    if takes_device_path(values):
        places, order = index.sort(stable=True)
        starts = torch.searchsorted(places, torch.arange(voxels + 1, device=index.device))
        sums = torch.segment_reduce(values.double()[order], "sum", offsets=starts, initial=0, unsafe=True)
        return (sums / starts.diff()[:, None]).to(values.dtype)
    if values.requires_grad and torch.is_grad_enabled():
        rows = index.long()
        sums = values.new_zeros((voxels, values.shape[1]), dtype=torch.float64).index_add(0, rows, values.double())
        return (sums / torch.bincount(rows, minlength=voxels)[:, None]).to(values.dtype)
    out = values.new_empty((voxels, values.shape[1]))
    arrays = (values.detach().contiguous(), index, np.zeros((voxels, values.shape[1] + 1)), out)
    run_chunks(voxel_means.average_points, chunk_bounds(voxels), *arrays)
    return out
