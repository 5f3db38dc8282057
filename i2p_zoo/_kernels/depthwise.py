"""Kernels of depthwise convolution: one pass over all taps, a block of channels in vector registers, no temporary."""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from i2p_zoo._kernels.vectors import VECTOR_BYTES, Vectors, element_pointer, row_number

_BLOCK_BYTES = 256


def _block(context, vectors, kind, value, row, channel, block_bytes):
    """Points to the vectors of the block of channels at (row, channel)."""
    start = element_pointer(context, vectors.builder, kind, value, row, channel)
    return [vectors.at(start, number) for number in range(block_bytes // VECTOR_BYTES)]


def _weigh(block_bytes):
    @intrinsic
    def weigh(typingctx, features, sources, weight, taps, count, row, channel, out):
        """out[row, block] = sum over n < count of features[sources[n], block] * weight[taps[n], block]."""
        signature = types.void(features, sources, weight, taps, count, row, channel, out)

        def generate(context, builder, signature, args):
            kinds, vectors = signature.args, Vectors(builder, signature.args[0].dtype)
            zeros = ir.Constant(vectors.type, [0.0] * vectors.lanes)
            places = _block(context, vectors, kinds[7], args[7], args[5], args[6], block_bytes)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in places]
            with cgutils.for_range(builder, args[4]) as loop:
                source = row_number(context, builder, kinds[1], args[1], loop.index)
                tap = row_number(context, builder, kinds[3], args[3], loop.index)
                values = _block(context, vectors, kinds[0], args[0], source, args[6], block_bytes)
                factors = _block(context, vectors, kinds[2], args[2], tap, args[6], block_bytes)
                for value, factor, total in zip(values, factors, sums, strict=True):
                    added = vectors.multiply_add(vectors.load(value), vectors.load(factor), builder.load(total))
                    builder.store(added, total)
            for total, place in zip(sums, places, strict=True):
                vectors.store(builder.load(total), place)
            return context.get_dummy_value()

        return signature, generate

    return weigh


def _correlate(block_bytes):
    @intrinsic
    def correlate(typingctx, features, sources, gradient, taps, count, row, channel, sums):
        """sums[taps[n], block] += gradient[row, block] * features[sources[n], block] for n < count."""
        signature = types.void(features, sources, gradient, taps, count, row, channel, sums)

        def generate(context, builder, signature, args):
            kinds, vectors = signature.args, Vectors(builder, signature.args[0].dtype)
            places = _block(context, vectors, kinds[2], args[2], args[5], args[6], block_bytes)
            upstream = [vectors.load(place) for place in places]
            with cgutils.for_range(builder, args[4]) as loop:
                source = row_number(context, builder, kinds[1], args[1], loop.index)
                tap = row_number(context, builder, kinds[3], args[3], loop.index)
                values = _block(context, vectors, kinds[0], args[0], source, args[6], block_bytes)
                totals = _block(context, vectors, kinds[7], args[7], tap, args[6], block_bytes)
                for value, factor, total in zip(values, upstream, totals, strict=True):
                    vectors.store(vectors.multiply_add(vectors.load(value), factor, vectors.load(total)), total)
            return context.get_dummy_value()

        return signature, generate

    return correlate


_weigh_block, _weigh_vector = _weigh(_BLOCK_BYTES), _weigh(VECTOR_BYTES)
_correlate_block, _correlate_vector = _correlate(_BLOCK_BYTES), _correlate(VECTOR_BYTES)


@numba.njit(nogil=True, cache=True)
def _collect(table, taps, row, sources, read):
    """Writes the inputs that a row reads and the taps it reads them with; returns their number."""
    count = 0
    for tap in taps:
        sources[count] = table[tap, row]
        read[count] = tap
        count += table[tap, row] >= 0
    return count


@numba.njit(nogil=True, cache=True)
def depthwise_forward(chunk, start, stop, features, table, weight, taps, out):
    """out[o, c] = sum over the taps k in `taps` of features[table[k, o], c] * weight[k, c], for rows start to stop."""
    channels = out.shape[1]
    block, vector = _BLOCK_BYTES // features.itemsize, VECTOR_BYTES // features.itemsize
    sources, read = np.empty(len(taps) + 1, np.int32), np.empty(len(taps) + 1, np.int32)
    for row in range(start, stop):
        count = _collect(table, taps, row, sources, read)
        channel = 0
        while channel + block <= channels:
            _weigh_block(features, sources, weight, read, count, row, channel, out)
            channel += block
        while channel + vector <= channels:
            _weigh_vector(features, sources, weight, read, count, row, channel, out)
            channel += vector
        for c in range(channel, channels):
            total = features.dtype.type(0)
            for n in range(count):
                total += features[sources[n], c] * weight[read[n], c]
            out[row, c] = total


@numba.njit(nogil=True, cache=True)
def depthwise_weight_gradient(chunk, start, stop, features, table, gradient, partial):
    """partial[chunk, k, c] = sum over rows o of gradient[o, c] * features[table[k, o], c], for rows start to stop."""
    channels = gradient.shape[1]
    block, vector = _BLOCK_BYTES // features.itemsize, VECTOR_BYTES // features.itemsize
    sums, taps = partial[chunk], np.arange(table.shape[0])
    sources, read = np.empty(len(taps) + 1, np.int32), np.empty(len(taps) + 1, np.int32)
    for row in range(start, stop):
        count = _collect(table, taps, row, sources, read)
        channel = 0
        while channel + block <= channels:
            _correlate_block(features, sources, gradient, read, count, row, channel, sums)
            channel += block
        while channel + vector <= channels:
            _correlate_vector(features, sources, gradient, read, count, row, channel, sums)
            channel += vector
        for c in range(channel, channels):
            for n in range(count):
                sums[read[n], c] += gradient[row, c] * features[sources[n], c]
