"""Kernels between coordinates and keys: the number of a voxel in the box around all of them, x fastest."""

from __future__ import annotations

import numpy as np

from i2p_zoo.sparse.kernels.team import team_kernel

_LANES = 16  # rows that are looked at side by side, so that the compiler can make vectors of them
_BLOCK = 256  # points whose cells are found before their keys, likewise


@team_kernel
def bound_columns(chunk, start, stop, rows, low, high):
    """low[chunk] and high[chunk] = the bounds of each column of (N, C) rows start to stop; NaN where a value is not finite."""
    columns = rows.shape[1]
    width, flat = columns * _LANES, rows.reshape(-1)
    least, most, unfit = np.empty(width, rows.dtype), np.empty(width, rows.dtype), np.zeros(width, rows.dtype)
    for lane in range(width):
        least[lane] = most[lane] = rows[start, lane % columns]
    for block in range(start * columns, stop * columns, width):
        values = flat[block : min(block + width, stop * columns)]
        for lane in range(values.size):
            value = values[lane]
            least[lane] = value if value < least[lane] else least[lane]
            most[lane] = value if value > most[lane] else most[lane]
            unfit[lane] += value - value  # zero, or NaN
    for lane in range(width):
        column = lane % columns
        low[chunk, column] = (least[lane] if lane < columns else min(low[chunk, column], least[lane])) + unfit[lane]
        high[chunk, column] = (most[lane] if lane < columns else max(high[chunk, column], most[lane])) + unfit[lane]


@team_kernel
def pack_points(chunk, start, stop, points, voxel_size, slack, low, extents, first, keys):
    """keys[n] = first + the number of the voxel of point n, (x, y, z), in a box of `extents` (z, y, x) from `low`."""
    cells, flat = np.empty(3 * _BLOCK, np.int32), points.reshape(-1)
    z_low, y_low, x_low = low[0], low[1], low[2]
    for block in range(start, stop, _BLOCK):
        numbers = keys[block : min(block + _BLOCK, stop)]
        values = flat[3 * block : 3 * (block + numbers.size)]
        for place in range(values.size):
            cell = values[place] / voxel_size
            cells[place] = np.int32(np.floor(cell + abs(cell) * slack))
        for n in range(numbers.size):
            z, y, x = cells[3 * n + 2] - z_low, cells[3 * n + 1] - y_low, cells[3 * n] - x_low
            numbers[n] = first + (z * extents[1] + y) * extents[2] + x


@team_kernel
def pack_rows(chunk, start, stop, coords, low, extents, keys):
    """keys[n] = the number of row n, (batch, z, y, x), in a box of `extents` from `low`."""
    for n in range(start, stop):
        key = coords[n, 0] - low[0]
        for column in range(1, 4):
            key = key * extents[column] + (coords[n, column] - low[column])
        keys[n] = key


@team_kernel
def unpack_keys(chunk, start, stop, keys, low, extents, coords):
    """Writes the rows (batch, z, y, x) of keys start to stop, which ascend: most are of the same line as the one before."""
    line, end = np.int64(0), np.int64(0)  # keys that differ in x alone
    batch = z = y = np.int64(0)
    for n in range(start, stop):
        key = np.int64(keys[n])
        if key >= end:
            number = key // extents[3]
            line, end = number * extents[3], (number + 1) * extents[3]
            plane = number // extents[2]
            y = number - plane * extents[2] + low[2]
            batch = plane // extents[1]
            z = plane - batch * extents[1] + low[1]
            batch += low[0]
        coords[n, 0] = batch
        coords[n, 1] = z
        coords[n, 2] = y
        coords[n, 3] = key - line + low[3]
