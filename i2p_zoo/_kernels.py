"""The numba kernels of the CPU backend: kernel maps, depthwise convolution and max pooling.

Each kernel works on one chunk of rows (see `_threads`), releases the GIL and is compiled on first use, cached on disk.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def match_taps(chunk, first_tap, last_tap, in_coords, in_order, out_coords, out_order, stride, offsets, table):
    """Fills rows `first_tap` to `last_tap` of a kernel map by merging two sorted site lists.

    An output site o reads the input site o * stride + offset; both sides stay in lexicographic order, so that one
    pass over the two lists finds every pair of a tap.
    """
    num_in, num_out = in_order.shape[0], out_order.shape[0]
    for tap in range(first_tap, last_tap):
        dz, dy, dx = offsets[tap, 0], offsets[tap, 1], offsets[tap, 2]
        position = 0
        for rank in range(num_out):
            out = out_order[rank]
            batch = out_coords[out, 0]
            z = np.int64(out_coords[out, 1]) * stride[0] + dz
            y = np.int64(out_coords[out, 2]) * stride[1] + dy
            x = np.int64(out_coords[out, 3]) * stride[2] + dx
            found = -1
            while position < num_in:
                row = in_order[position]
                difference = np.int64(in_coords[row, 0]) - batch
                if difference == 0:
                    difference = in_coords[row, 1] - z
                if difference == 0:
                    difference = in_coords[row, 2] - y
                if difference == 0:
                    difference = in_coords[row, 3] - x
                if difference < 0:
                    position += 1
                    continue
                if difference == 0:
                    found = row
                break
            table[tap, out] = found


@numba.njit(nogil=True, cache=True)
def depthwise_forward(chunk, start, stop, features, table, weight, out):
    """out[o, c] = sum over taps k of features[table[k, o], c] * weight[k, c], for rows start to stop."""
    for row in range(start, stop):
        for channel in range(out.shape[1]):
            out[row, channel] = 0
        for tap in range(table.shape[0]):
            source = table[tap, row]
            if source >= 0:
                for channel in range(out.shape[1]):
                    out[row, channel] += features[source, channel] * weight[tap, channel]


@numba.njit(nogil=True, cache=True)
def depthwise_weight_gradient(chunk, start, stop, features, table, gradient, partial):
    """partial[chunk, k, c] = sum over rows o of gradient[o, c] * features[table[k, o], c]."""
    for row in range(start, stop):
        for tap in range(table.shape[0]):
            source = table[tap, row]
            if source >= 0:
                for channel in range(gradient.shape[1]):
                    partial[chunk, tap, channel] += gradient[row, channel] * features[source, channel]


@numba.njit(nogil=True, cache=True)
def max_forward(chunk, start, stop, features, table, out, source_of):
    """out[o, c] = max over taps of features[table[k, o], c]; source_of[o, c] is the row it came from, or -1 (out 0)."""
    for row in range(start, stop):
        for channel in range(out.shape[1]):
            out[row, channel] = 0
            source_of[row, channel] = -1
        for tap in range(table.shape[0]):
            source = table[tap, row]
            if source >= 0:
                for channel in range(out.shape[1]):
                    value = features[source, channel]
                    if source_of[row, channel] < 0 or value > out[row, channel] or value != value:
                        out[row, channel] = value
                        source_of[row, channel] = source


@numba.njit(nogil=True, cache=True)
def max_backward(chunk, start, stop, gradient, transposed, source_of, out):
    """Gathers, for input rows start to stop, the gradients of the outputs whose maximum each row was."""
    for row in range(start, stop):
        for channel in range(out.shape[1]):
            out[row, channel] = 0
        for tap in range(transposed.shape[0]):
            target = transposed[tap, row]
            if target >= 0:
                for channel in range(out.shape[1]):
                    if source_of[target, channel] == row:
                        out[row, channel] += gradient[target, channel]
