"""Kernels of max pooling."""

from __future__ import annotations

from i2p_zoo.sparse.kernels.team import team_kernel


@team_kernel
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


@team_kernel
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
