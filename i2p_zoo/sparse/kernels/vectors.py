"""LLVM's vectors of the machine the code runs on, for kernels that a compiler does not vectorise well by itself.

numba's cache notices a change of the file a kernel stands in, not of this one.
"""

from __future__ import annotations

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types

AVX512 = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
VECTOR_BYTES = 64 if AVX512 else 32


class Vectors:
    """Emits loads, stores and products of whole vectors of an element type, numba's float32 or float64."""

    def __init__(self, builder, element):
        self.builder = builder
        self.size = 8 if element == types.float64 else 4
        self.lanes = VECTOR_BYTES // self.size
        self.type = ir.VectorType(ir.DoubleType() if self.size == 8 else ir.FloatType(), self.lanes)
        function_type = ir.FunctionType(self.type, [self.type] * 3)
        self._fma = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{self.lanes}f{self.size * 8}")

    def at(self, pointer, number):
        """Points to the vector `number` vectors behind an element."""
        place = self.builder.gep(pointer, [ir.IntType(64)(number * self.lanes)])
        return self.builder.bitcast(place, self.type.as_pointer())

    def load(self, pointer):
        return self.builder.load(pointer, align=self.size)

    def load_first(self, pointer, count):
        """Loads the first `count` lanes, fewer than there are; the others are zero and not read."""
        builder = self.builder
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), self.lanes), list(range(self.lanes)))
        limit = ir.Constant(numbers.type, ir.Undefined)
        limit = builder.insert_element(limit, count, ir.IntType(32)(0))
        limit = builder.shuffle_vector(limit, limit, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes))
        mask = builder.icmp_signed("<", numbers, limit)
        function_type = ir.FunctionType(self.type, [self.type.as_pointer(), ir.IntType(32), mask.type, self.type])
        name = f"llvm.masked.load.v{self.lanes}f{self.size * 8}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [pointer, ir.IntType(32)(self.size), mask, ir.Constant(self.type, None)])

    def store(self, value, pointer):
        self.builder.store(value, pointer, align=self.size)

    def multiply_add(self, a, b, total):
        return self.builder.call(self._fma, [a, b, total])


def element_pointer(context, builder, array_type, value, row, column):
    """Points to an element of a C-contiguous (rows, columns) array."""
    array = context.make_array(array_type)(context, builder, value)
    place = builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), column)
    return builder.gep(array.data, [place])


def row_number(context, builder, array_type, value, index):
    """An entry of an (n,) int32 array, widened."""
    array = context.make_array(array_type)(context, builder, value)
    return builder.sext(builder.load(builder.gep(array.data, [index])), ir.IntType(64))
