"""Kernels of depthwise convolution: one pass over all taps, a block of channels in vector registers, no temporary."""

from __future__ import annotations

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_VECTOR_BYTES = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 32
_BLOCK_BYTES = 256


class _Rows:
    """Emits loads and stores of a block of channels in rows of C-contiguous arrays."""

    def __init__(self, context, builder, element, block_bytes):
        self.context, self.builder = context, builder
        self.size = 8 if element == types.float64 else 4
        self.vectors = block_bytes // _VECTOR_BYTES
        self.lanes = _VECTOR_BYTES // self.size
        self.vector = ir.VectorType(ir.DoubleType() if self.size == 8 else ir.FloatType(), self.lanes)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{self.lanes}f{self.size * 8}")

    def blocks(self, kind, value, row, channel):
        """Pointers to the vectors of the block at (row, channel)."""
        builder, word = self.builder, ir.IntType(64)
        array = self.context.make_array(kind)(self.context, builder, value)
        start = builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), channel)
        places = [builder.add(start, word(number * self.lanes)) for number in range(self.vectors)]
        return [builder.bitcast(builder.gep(array.data, [place]), self.vector.as_pointer()) for place in places]

    def load(self, pointer):
        return self.builder.load(pointer, align=self.size)

    def store(self, value, pointer):
        self.builder.store(value, pointer, align=self.size)

    def number(self, kind, value, index):
        """An entry of an integer array, widened."""
        array = self.context.make_array(kind)(self.context, self.builder, value)
        return self.builder.sext(self.builder.load(self.builder.gep(array.data, [index])), ir.IntType(64))


def _weigh(block_bytes):
    @intrinsic
    def weigh(typingctx, features, sources, weight, taps, count, row, channel, out):
        """out[row, block] = sum over n < count of features[sources[n], block] * weight[taps[n], block]."""
        signature = types.void(features, sources, weight, taps, count, row, channel, out)

        def generate(context, builder, signature, args):
            kinds = signature.args
            rows = _Rows(context, builder, kinds[0].dtype, block_bytes)
            zeros = ir.Constant(rows.vector, [0.0] * rows.lanes)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(rows.vectors)]
            with cgutils.for_range(builder, args[4]) as loop:
                values = rows.blocks(kinds[0], args[0], rows.number(kinds[1], args[1], loop.index), args[6])
                factors = rows.blocks(kinds[2], args[2], rows.number(kinds[3], args[3], loop.index), args[6])
                for value, factor, total in zip(values, factors, sums, strict=True):
                    added = builder.call(rows.fma, [rows.load(value), rows.load(factor), builder.load(total)])
                    builder.store(added, total)
            for total, place in zip(sums, rows.blocks(kinds[7], args[7], args[5], args[6]), strict=True):
                rows.store(builder.load(total), place)
            return context.get_dummy_value()

        return signature, generate

    return weigh


def _correlate(block_bytes):
    @intrinsic
    def correlate(typingctx, features, sources, gradient, taps, count, row, channel, sums):
        """sums[taps[n], block] += gradient[row, block] * features[sources[n], block] for n < count."""
        signature = types.void(features, sources, gradient, taps, count, row, channel, sums)

        def generate(context, builder, signature, args):
            kinds = signature.args
            rows = _Rows(context, builder, kinds[0].dtype, block_bytes)
            upstream = [rows.load(place) for place in rows.blocks(kinds[2], args[2], args[5], args[6])]
            with cgutils.for_range(builder, args[4]) as loop:
                values = rows.blocks(kinds[0], args[0], rows.number(kinds[1], args[1], loop.index), args[6])
                totals = rows.blocks(kinds[7], args[7], rows.number(kinds[3], args[3], loop.index), args[6])
                for value, factor, total in zip(values, upstream, totals, strict=True):
                    rows.store(builder.call(rows.fma, [rows.load(value), factor, rows.load(total)]), total)
            return context.get_dummy_value()

        return signature, generate

    return correlate


_weigh_block, _weigh_vector = _weigh(_BLOCK_BYTES), _weigh(_VECTOR_BYTES)
_correlate_block, _correlate_vector = _correlate(_BLOCK_BYTES), _correlate(_VECTOR_BYTES)


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
    block, vector = _BLOCK_BYTES // features.itemsize, _VECTOR_BYTES // features.itemsize
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
    block, vector = _BLOCK_BYTES // features.itemsize, _VECTOR_BYTES // features.itemsize
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
