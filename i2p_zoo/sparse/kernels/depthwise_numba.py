"""Kernels of depthwise convolution: one pass over all taps, a block of channels in vector registers, no temporary."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from i2p_zoo.sparse.kernels.compilation import compiled
from i2p_zoo.sparse.kernels.team import team_kernel
from i2p_zoo.sparse.kernels.vectors import VECTOR_BYTES, Vectors, element_pointer, row_number

_LINE_BYTES = 64  # of a cache
_ROWS_AHEAD = 4
_WIDTHS = (8, 4, 2, 1)  # vectors of channels that stay in registers through all of a row's pairs


def _block(context, vectors, array_type, value, row, channel, width):
    """Points to the vectors of the block of channels at (row, channel)."""
    start = element_pointer(context, vectors.builder, array_type, value, row, channel)
    return [vectors.at(start, number) for number in range(width)]


def _weigh(width):
    @intrinsic
    def weigh(typingctx, features, sources, weight, taps, first, last, row, channel, out):
        """out[row, block] = sum over first <= n < last of features[sources[n], block] * weight[taps[n], block]."""
        signature = types.void(features, sources, weight, taps, first, last, row, channel, out)

        def generate(context, builder, signature, args):
            arg_types, vectors = signature.args, Vectors(builder, signature.args[0].dtype)
            zeros = ir.Constant(vectors.type, [0.0] * vectors.lanes)
            places = _block(context, vectors, arg_types[8], args[8], args[6], args[7], width)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in places]
            with cgutils.for_range(builder, args[5], args[4]) as loop:
                source = row_number(context, builder, arg_types[1], args[1], loop.index)
                tap = row_number(context, builder, arg_types[3], args[3], loop.index)
                values = _block(context, vectors, arg_types[0], args[0], source, args[7], width)
                factors = _block(context, vectors, arg_types[2], args[2], tap, args[7], width)
                for value, factor, total in zip(values, factors, sums, strict=True):
                    added = vectors.multiply_add(vectors.load(value), vectors.load(factor), builder.load(total))
                    builder.store(added, total)
            for total, place in zip(sums, places, strict=True):
                vectors.store(builder.load(total), place)
            return context.get_dummy_value()

        return signature, generate

    return weigh


def _correlate(width):
    @intrinsic
    def correlate(typingctx, features, sources, gradient, taps, first, last, row, channel, sums):
        """sums[taps[n], block] += gradient[row, block] * features[sources[n], block] for first <= n < last."""
        signature = types.void(features, sources, gradient, taps, first, last, row, channel, sums)

        def generate(context, builder, signature, args):
            arg_types, vectors = signature.args, Vectors(builder, signature.args[0].dtype)
            places = _block(context, vectors, arg_types[2], args[2], args[6], args[7], width)
            upstream = [vectors.load(place) for place in places]
            with cgutils.for_range(builder, args[5], args[4]) as loop:
                source = row_number(context, builder, arg_types[1], args[1], loop.index)
                tap = row_number(context, builder, arg_types[3], args[3], loop.index)
                values = _block(context, vectors, arg_types[0], args[0], source, args[7], width)
                totals = _block(context, vectors, arg_types[8], args[8], tap, args[7], width)
                for value, factor, total in zip(values, upstream, totals, strict=True):
                    vectors.store(vectors.multiply_add(vectors.load(value), factor, vectors.load(total)), total)
            return context.get_dummy_value()

        return signature, generate

    return correlate


_weigh_8, _weigh_4, _weigh_2, _weigh_1 = map(_weigh, _WIDTHS)
_correlate_8, _correlate_4, _correlate_2, _correlate_1 = map(_correlate, _WIDTHS)


@intrinsic
def _prefetch(typingctx, features, row):
    """Fetches a row of features into the second cache."""
    signature = types.void(features, row)

    def generate(context, builder, signature, args):
        word, pointer, flag = ir.IntType(64), ir.IntType(8).as_pointer(), ir.IntType(32)
        channels = builder.extract_value(context.make_array(signature.args[0])(context, builder, args[0]).shape, 1)
        size = builder.mul(channels, word(Vectors(builder, signature.args[0].dtype).size))
        start = builder.bitcast(element_pointer(context, builder, signature.args[0], args[0], args[1], word(0)), pointer)
        prefetch_type = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(builder.module, prefetch_type, "llvm.prefetch.p0")
        with cgutils.for_range_slice(builder, word(0), size, word(_LINE_BYTES), inc=True) as (offset, _):
            builder.call(fetch, [builder.gep(start, [offset]), flag(0), flag(2), flag(1)])  # to read, second cache, data
        return context.get_dummy_value()

    return signature, generate


@compiled
def _keep_used(sources, taps, first, last, used, kept, read):
    """Copies those of a row's pairs whose taps are used; returns how many."""
    count = 0
    for n in range(first, last):
        kept[count] = sources[n]
        read[count] = taps[n]
        count += used[taps[n]]
    return count


@compiled(inline="always")
def _weigh_row(features, sources, weight, taps, first, last, row, out):
    channels, vector = out.shape[1], VECTOR_BYTES // features.itemsize
    channel = 0
    while channel + 8 * vector <= channels:
        _weigh_8(features, sources, weight, taps, first, last, row, channel, out)
        channel += 8 * vector
    if channel + 4 * vector <= channels:
        _weigh_4(features, sources, weight, taps, first, last, row, channel, out)
        channel += 4 * vector
    if channel + 2 * vector <= channels:
        _weigh_2(features, sources, weight, taps, first, last, row, channel, out)
        channel += 2 * vector
    if channel + vector <= channels:
        _weigh_1(features, sources, weight, taps, first, last, row, channel, out)
        channel += vector
    for c in range(channel, channels):
        total = features.dtype.type(0)
        for n in range(first, last):
            total += features[sources[n], c] * weight[taps[n], c]
        out[row, c] = total


@team_kernel
def depthwise_forward(chunk, start, stop, features, ends, sources, taps, weight, out):
    """out[o, c] = sum over o's pairs n of features[sources[n], c] * weight[taps[n], c], for rows start to stop.

    Pairs of taps that are all zero are not read.
    """
    used = np.empty(len(weight), np.bool_)
    for tap in range(len(weight)):
        used[tap] = weight[tap].any()
    every = used.all()
    kept, read = np.empty(len(used) + 1, np.int32), np.empty(len(used) + 1, np.int32)
    for row in range(start, stop):
        first, last = np.int64(0) if row == 0 else ends[row - 1], ends[row]
        if every:
            ahead = ends[min(row + _ROWS_AHEAD, stop - 1)]
            if ahead > 0:  # where sites are sorted, no row has read the last one of a later row yet
                _prefetch(features, np.int64(sources[ahead - 1]))
            _weigh_row(features, sources, weight, taps, first, last, row, out)
        else:
            count = _keep_used(sources, taps, first, last, used, kept, read)
            _weigh_row(features, kept, weight, read, np.int64(0), count, row, out)


@team_kernel
def depthwise_weight_gradient(chunk, start, stop, features, ends, sources, taps, gradient, partial):
    """partial[chunk, k, c] = sum of gradient[o, c] * features[sources[n], c] over pairs n of tap k of rows o, start to stop."""
    channels = gradient.shape[1]
    vector = VECTOR_BYTES // features.itemsize
    sums = partial[chunk]
    for row in range(start, stop):
        first, last = np.int64(0) if row == 0 else ends[row - 1], ends[row]
        channel = 0
        while channel + 8 * vector <= channels:
            _correlate_8(features, sources, gradient, taps, first, last, row, channel, sums)
            channel += 8 * vector
        if channel + 4 * vector <= channels:
            _correlate_4(features, sources, gradient, taps, first, last, row, channel, sums)
            channel += 4 * vector
        if channel + 2 * vector <= channels:
            _correlate_2(features, sources, gradient, taps, first, last, row, channel, sums)
            channel += 2 * vector
        if channel + vector <= channels:
            _correlate_1(features, sources, gradient, taps, first, last, row, channel, sums)
            channel += vector
        for c in range(channel, channels):
            for n in range(first, last):
                sums[taps[n], c] += gradient[row, c] * features[sources[n], c]
