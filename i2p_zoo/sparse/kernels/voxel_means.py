"""The kernel of the means of voxels, summed in float64 and in the order of the points, whatever the number of threads."""

from __future__ import annotations

import numpy as np

from i2p_zoo.sparse.kernels.team import team_kernel

_BLOCK = 512  # points that are looked through before those of a chunk's voxels are added


@team_kernel
def average_points(chunk, start, stop, values, index, sums, out):
    """out[v] = the mean of the rows of (N, C) values whose index is v, for voxels start to stop.

    Every chunk looks through all points. `sums` is (M, C + 1) zeros. Places are unsigned: numba looks whether a signed one is
    negative.
    """
    channels, kept = np.uint64(values.shape[1]), np.empty(_BLOCK, np.uint64)
    low, size = np.int64(start), np.uint64(stop - start)
    for block in range(0, index.size, _BLOCK):
        count = 0
        for n in range(block, min(block + _BLOCK, index.size)):  # without a branch, which could not be foreseen
            kept[count] = n
            count += np.uint64(index[n] - low) < size
        for n in kept[:count]:
            voxel = np.uint64(index[n])
            for channel in range(channels):
                sums[voxel, channel] += values[n, channel]
            sums[voxel, channels] += 1
    for voxel in range(start, stop):
        for channel in range(values.shape[1]):
            out[voxel, channel] = sums[voxel, channel] / sums[voxel, values.shape[1]]
