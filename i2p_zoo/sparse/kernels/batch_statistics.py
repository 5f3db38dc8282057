"""Kernels of batch normalisation with a clamp behind it: as few passes over the features as there can be.

A bound of NaN is none.
"""

from __future__ import annotations

import numpy as np

from i2p_zoo.sparse.kernels.team import team_kernel

_BLOCK = 64  # rows that are summed in the features' own precision, before their sums are added up in float64


@team_kernel
def sum_moments(chunk, start, stop, rows, centre, sums):
    """sums[chunk] = the sums of rows - centre and of their squares over rows start to stop: (2, C) float64."""
    channels = rows.shape[1]
    first, second = np.empty(channels, rows.dtype), np.empty(channels, rows.dtype)
    for block in range(start, stop, _BLOCK):
        first[:] = 0
        second[:] = 0
        for row in range(block, min(block + _BLOCK, stop)):
            for channel in range(channels):
                value = rows[row, channel] - centre[channel]
                first[channel] += value
                second[channel] += value * value
        for channel in range(channels):
            sums[chunk, 0, channel] += first[channel]
            sums[chunk, 1, channel] += second[channel]


@team_kernel
def scale_and_clamp(chunk, start, stop, rows, scale, offset, low, high, out):
    """Writes rows * scale + offset, kept within low and high, a NaN staying one, for rows start to stop."""
    for row in range(start, stop):
        for channel in range(rows.shape[1]):
            value = rows[row, channel] * scale[channel] + offset[channel]
            value = low if value < low else value
            out[row, channel] = high if value > high else value


@team_kernel
def sum_gradients(chunk, start, stop, gradient, rows, scale, offset, low, high, mean, sums):
    """sums[chunk] = the sums of what passes the clamp of gradient, and of that times rows - mean: (2, C) float64."""
    channels, zero = rows.shape[1], rows.dtype.type(0)
    first, second = np.empty(channels, rows.dtype), np.empty(channels, rows.dtype)
    for block in range(start, stop, _BLOCK):
        first[:] = 0
        second[:] = 0
        for row in range(block, min(block + _BLOCK, stop)):
            for channel in range(channels):
                value = rows[row, channel] * scale[channel] + offset[channel]
                passed = zero if (value <= low) | (value >= high) else gradient[row, channel]
                first[channel] += passed
                second[channel] += passed * (rows[row, channel] - mean[channel])
        for channel in range(channels):
            sums[chunk, 0, channel] += first[channel]
            sums[chunk, 1, channel] += second[channel]


@team_kernel
def pass_back(chunk, start, stop, gradient, rows, scale, offset, low, high, out):
    """Writes what passes the clamp of gradient, times scale, for rows start to stop."""
    zero = rows.dtype.type(0)
    for row in range(start, stop):
        for channel in range(rows.shape[1]):
            value = rows[row, channel] * scale[channel] + offset[channel]
            passed = zero if (value <= low) | (value >= high) else gradient[row, channel]
            out[row, channel] = passed * scale[channel]


@team_kernel
def pass_back_of_batch(chunk, start, stop, gradient, rows, scale, offset, low, high, slope, level, out):
    """Writes what `pass_back` does plus rows * slope + level, for rows start to stop."""
    zero = rows.dtype.type(0)
    for row in range(start, stop):
        for channel in range(rows.shape[1]):
            value = rows[row, channel] * scale[channel] + offset[channel]
            passed = zero if (value <= low) | (value >= high) else gradient[row, channel]
            out[row, channel] = passed * scale[channel] + rows[row, channel] * slope[channel] + level[channel]
