"""Which voxel each point lies in, and the mean of what the points of a voxel carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.coordinates import MAX_COORDINATE, unique_rows
from i2p_zoo.sparse.kernels import keys as key_kernels
from i2p_zoo.sparse.kernels import voxel_means
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks
from i2p_zoo.sparse.voxel_keys import Box, column_bounds, rank_keys


def find_voxels(positions: list[Tensor], voxel_size: float) -> tuple[Tensor, Tensor]:
    """Finds the voxel floor(p / voxel_size) of each point, in float64, so that a border does not depend on the points' dtype.

    Args:
        positions: finite (N, 3) float32 or float64 x, y, z of each cloud, all on one device.
        voxel_size: edge of a voxel.

    Returns:
        The sorted voxels (M, 4) int32, columns number of the cloud, z, y, x; and of each point, clouds one after the other,
        which of them it is in: (total points,) int32 or int64.

    Raises:
        InvalidInputError: a cloud reaches beyond +-2**30 voxels, or the box around all has more than 2**62 voxels.
    """
    clouds = [cloud.detach().contiguous() for cloud in positions]
    bounds = [np.array(column_bounds(cloud), np.float64)[:, ::-1] for cloud in clouds]  # (2, 3): low and high, z, y, x
    with np.errstate(over="ignore"):
        cells = np.floor(np.array(bounds) / float(voxel_size))
    for number, largest in enumerate(np.abs(cells).max((1, 2))):
        if largest > MAX_COORDINATE:
            raise InvalidInputError(
                f"Cloud {number} reaches voxel {largest:.3g} at voxel_size={voxel_size}; coordinates must lie within +-2**30. "
                "Use a larger voxel size or move the cloud nearer to the origin."
            )
    if clouds[0].device.type != "cpu":
        return unique_rows(torch.cat([_cells(cloud, voxel_size, number) for number, cloud in enumerate(clouds)]))
    low, high = cells[:, 0].min(0).astype(np.int64), cells[:, 1].max(0).astype(np.int64)
    box = Box.around([0, *low.tolist()], [len(clouds) - 1, *high.tolist()])
    keys = np.empty(sum(map(len, clouds)), box.key_type)
    first, volume, extents = 0, box.volume // len(clouds), np.array(box.extents[1:])
    for number, cloud in enumerate(clouds):
        part = keys[first : first + len(cloud)]
        arrays = (cloud, float(voxel_size), low, extents, number * volume, part)
        run_chunks(key_kernels.pack_points, chunk_bounds(len(cloud)), *arrays)
        first += len(cloud)
    distinct = rank_keys(keys, box.volume)
    return box.unpack(distinct), torch.from_numpy(keys)


def _cells(cloud: Tensor, voxel_size: float, number: int) -> Tensor:
    """The (N, 4) int32 number, z, y, x of a cloud's points, on any device."""
    coords = torch.empty((len(cloud), 4), dtype=torch.int32, device=cloud.device)
    coords[:, 0] = number
    coords[:, 1:] = torch.floor(cloud.double() / voxel_size).flip(1)
    return coords


def average_voxels(values: Tensor, index: Tensor, voxels: int) -> Tensor:
    """Returns the mean (voxels, C) of the points' values (N, C), summed in float64, by each point's voxel (N,).

    In float32 the mean of many points can leave their voxel.
    """
    if values.device.type != "cpu" or (values.requires_grad and torch.is_grad_enabled()):
        rows = index.long()
        sums = values.new_zeros((voxels, values.shape[1]), dtype=torch.float64).index_add(0, rows, values.double())
        return (sums / torch.bincount(rows, minlength=voxels)[:, None]).to(values.dtype)
    out = values.new_empty((voxels, values.shape[1]))
    arrays = (values.detach().contiguous(), index, np.zeros((voxels, values.shape[1] + 1)), out)
    run_chunks(voxel_means.average_points, chunk_bounds(voxels), *arrays)
    return out
