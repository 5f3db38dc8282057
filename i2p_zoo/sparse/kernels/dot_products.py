"""Dense convolution of few rows: dot products of features with weights, both read where they stand.

Laying weights out anew, as the tiles of `matrix` need them, pays only where many rows are multiplied by each. Here a tile is
ROWS rows by CHANNELS outputs, whose partial sums over the depth stay in vector registers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from i2p_zoo.sparse.kernels.matrix import collect_pairs
from i2p_zoo.sparse.kernels.team import team_kernel
from i2p_zoo.sparse.kernels.vectors import VECTOR_BYTES, Vectors, element_pointer, row_number

ROWS = 3
CHANNELS = VECTOR_BYTES // 8  # with ROWS of them, their sums and one tile's operands fit the registers


def _every_second(count, first):
    """Names every second of 2 * `count` lanes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), count), [2 * lane + first for lane in range(count)])


def _halves(vectors, a, b):
    """Adds neighbouring lanes of two vectors: the first half of the result is `a`'s, the second `b`'s."""
    builder, lanes = vectors.builder, a.type.count
    even, odd = (builder.shuffle_vector(a, b, _every_second(lanes, first)) for first in (0, 1))
    return builder.fadd(even, odd)


def _sum_lanes(vectors, sums):
    """Sums each of CHANNELS vectors over its lanes: a vector of CHANNELS values."""
    builder = vectors.builder
    while len(sums) > 1:
        sums = [_halves(vectors, a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    (total,) = sums
    if vectors.lanes > CHANNELS:
        even, odd = (builder.shuffle_vector(total, total, _every_second(CHANNELS, first)) for first in (0, 1))
        total = builder.fadd(even, odd)
    return total


@intrinsic
def _add_dot_products(typingctx, features, sources, first, weight, tap, channel, depth, out, targets, out_column):
    """out[targets[first + m], out_column + j] += the dot product of features[sources[first + m]] and weight[channel + j, tap].

    For m < ROWS and j < CHANNELS, over `depth` values; channels beyond the weight's last are taken to be the last. `weight`
    is (C_out, taps * depth).
    """
    integer = types.intp
    signature = types.void(features, sources, integer, weight, integer, integer, integer, out, targets, integer)

    def generate(context, builder, signature, args):
        arg_types, word = signature.args, ir.IntType(64)
        vectors = Vectors(builder, arg_types[0].dtype)
        rows, places = [], []
        for number in range(ROWS):
            index = builder.add(args[2], word(number))
            source = row_number(context, builder, arg_types[1], args[1], index)
            target = row_number(context, builder, arg_types[8], args[8], index)
            rows.append(element_pointer(context, builder, arg_types[0], args[0], source, word(0)))
            places.append(element_pointer(context, builder, arg_types[7], args[7], target, args[9]))
        shape = context.make_array(arg_types[3])(context, builder, args[3]).shape
        last = builder.sub(builder.extract_value(shape, 0), word(1))
        column = builder.mul(args[4], args[6])
        channels = []
        for number in range(CHANNELS):
            channel = builder.add(args[5], word(number))
            channel = builder.select(builder.icmp_signed("<", channel, last), channel, last)
            channels.append(element_pointer(context, builder, arg_types[3], args[3], channel, column))
        zero = ir.Constant(vectors.type, None)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in channels] for _ in rows]

        def add(load):
            values = [load(row) for row in rows]
            for number, channel in enumerate(channels):
                factor = load(channel)
                for value, totals in zip(values, sums, strict=True):
                    builder.store(vectors.multiply_add(value, factor, builder.load(totals[number])), totals[number])

        lanes = word(vectors.lanes)
        whole = builder.udiv(args[6], lanes)
        with cgutils.for_range(builder, whole) as loop:
            start = builder.mul(loop.index, lanes)
            add(lambda pointer: vectors.load(vectors.at(builder.gep(pointer, [start]), 0)))
        start = builder.mul(whole, lanes)
        rest = builder.sub(args[6], start)
        with builder.if_then(builder.icmp_signed(">", rest, word(0))):
            add(lambda pointer: vectors.load_first(vectors.at(builder.gep(pointer, [start]), 0), rest))
        block_type = ir.VectorType(vectors.type.element, CHANNELS)
        for place, totals in zip(places, sums, strict=True):
            total = _sum_lanes(vectors, [builder.load(total) for total in totals])
            pointer = builder.bitcast(place, block_type.as_pointer())
            builder.store(builder.fadd(builder.load(pointer, align=vectors.size), total), pointer, align=vectors.size)
        return context.get_dummy_value()

    return signature, generate


@team_kernel
def multiply_few_rows(chunk, first_block, last_block, features, table, taps, weight, used, out):
    """out[o] += sum over k of features[table[k, o]] times tap taps[k] of weight, for blocks of CHANNELS outputs.

    Args:
        features: (N_in, C_in).
        table: (K, N_out) kernel map.
        taps: (K,) int64, tap numbers among those of the weight.
        weight: (C_out, all taps * C_in).
        used: (K,) taps that are not all zero.
        out: (N_out, C_out), zeros.
    """
    depth = features.shape[1]
    rows = out.shape[0]
    sources, targets = np.empty(rows + ROWS, np.int32), np.empty(rows + ROWS, np.int32)
    scratch = np.empty((ROWS, CHANNELS), features.dtype)
    numbers = np.arange(ROWS).astype(np.int32)
    for number in range(table.shape[0]):
        if not used[number]:
            continue
        tap = taps[number]
        count = collect_pairs(table, number, 0, rows, sources, targets)
        sources[count : count + ROWS] = sources[0]
        for block in range(first_block, last_block):
            channel = block * CHANNELS
            channels = min(CHANNELS, out.shape[1] - channel)
            for pair in range(0, count, ROWS):
                if channels == CHANNELS and pair + ROWS <= count:
                    _add_dot_products(features, sources, pair, weight, tap, channel, depth, out, targets, channel)
                    continue
                scratch[:] = 0
                _add_dot_products(features, sources[pair:], 0, weight, tap, channel, depth, scratch, numbers, 0)
                for m in range(min(ROWS, count - pair)):
                    for j in range(channels):
                        out[targets[pair + m], channel + j] += scratch[m, j]
