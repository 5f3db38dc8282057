"""Kernels of dense and grouped convolution: matrix products whose rows a kernel map picks.

A tile of the result stays in vector registers while the products of one tap are added to it, and its rows are read and
written where they stand, so that nothing is gathered to memory first. The two innermost loops are written in LLVM's own
vector types, because a compiler does not find this blocking by itself (Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication", ACM TOMS 2008; the rows by pointer are XNNPACK's indirect convolution).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from i2p_zoo.sparse.kernels.compilation import compiled
from i2p_zoo.sparse.kernels.team import team_kernel
from i2p_zoo.sparse.kernels.vectors import AVX512, VECTOR_BYTES, Vectors, element_pointer, row_number

# A tile of TILE_ROWS rows by two vectors, and what it is made of, fill the registers: 32 with AVX-512, 16 otherwise.
_VECTORS = 2
TILE_ROWS = 14 if AVX512 else 6
PANEL_BYTES = _VECTORS * VECTOR_BYTES
_DEPTH = 256  # products of one tile between a load and a store of it: a panel of weights then fits the first cache
_FEW_DEPTH = 128  # the same where all panels of a tap are laid out at once: they then fit the second cache
_CACHED_VALUES = 2**16  # features that a block of rows holds: they stay in the second cache over all taps
_FEWEST_ROWS = 512  # but a block has no fewer rows: else weights are read more often than that saves


class _Tile:
    """Emits the code of one tile: its accumulators, and the step that adds a column times a row to them."""

    def __init__(self, builder, element, rows):
        """`rows` point to the first element of each row of the tile."""
        self.builder, self.vectors = builder, Vectors(builder, element)
        self.places = [[self.vectors.at(row, number) for number in range(_VECTORS)] for row in rows]
        self.sums = [[cgutils.alloca_once(builder, self.vectors.type) for _ in range(_VECTORS)] for _ in rows]
        for places, sums in zip(self.places, self.sums, strict=True):
            for place, total in zip(places, sums, strict=True):
                builder.store(self.vectors.load(place), total)

    def add_product(self, scalars, row):
        """Adds scalars[m] * row to each row m of the tile; `row` points to its first element."""
        builder, vectors = self.builder, self.vectors
        undefined = ir.Constant(vectors.type, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), vectors.lanes), [0] * vectors.lanes)
        factors = [vectors.load(vectors.at(row, number)) for number in range(_VECTORS)]
        for scalar, sums in zip(scalars, self.sums, strict=True):
            first = builder.insert_element(undefined, builder.load(scalar), ir.IntType(32)(0))
            spread = builder.shuffle_vector(first, undefined, zeros)
            for factor, total in zip(factors, sums, strict=True):
                builder.store(vectors.multiply_add(spread, factor, builder.load(total)), total)

    def store(self):
        for places, sums in zip(self.places, self.sums, strict=True):
            for place, total in zip(places, sums, strict=True):
                self.vectors.store(self.builder.load(total), place)


@intrinsic
def _multiply_tile(typingctx, features, sources, first, column, depth, panels, place, out, targets, out_column):
    """out[targets[first + m], out_column + j] += sum over k of features[sources[first + m], column + k] * panel[k, j].

    For m < TILE_ROWS and j < the panel's width; the panel is the flat `panels` from `place` on.
    """
    integer = types.intp
    signature = types.void(features, sources, integer, integer, integer, panels, integer, out, targets, integer)

    def generate(context, builder, signature, args):
        arg_types, word = signature.args, ir.IntType(64)
        scalars, outputs = [], []
        for number in range(TILE_ROWS):
            index = builder.add(args[2], word(number))
            source = row_number(context, builder, arg_types[1], args[1], index)
            target = row_number(context, builder, arg_types[8], args[8], index)
            scalars.append(element_pointer(context, builder, arg_types[0], args[0], source, args[3]))
            outputs.append(element_pointer(context, builder, arg_types[7], args[7], target, args[9]))
        panel = builder.gep(context.make_array(arg_types[5])(context, builder, args[5]).data, [args[6]])
        tile = _Tile(builder, arg_types[0].dtype, outputs)
        with cgutils.for_range(builder, args[4]) as loop:
            row = builder.gep(panel, [builder.mul(loop.index, word(_VECTORS * tile.vectors.lanes))])
            tile.add_product([builder.gep(scalar, [loop.index]) for scalar in scalars], row)
        tile.store()
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _correlate_tile(typingctx, left, left_rows, left_column, right, right_rows, right_column, count, out, row, column):
    """out[row + m, column + j] += sum over p < count of left[left_rows[p], left_column + m] * right[right_rows[p], ...+ j]."""
    integer = types.intp
    signature = types.void(left, left_rows, integer, right, right_rows, integer, integer, out, integer, integer)

    def generate(context, builder, signature, args):
        arg_types, word = signature.args, ir.IntType(64)
        rows = [builder.add(args[8], word(number)) for number in range(TILE_ROWS)]
        outputs = [element_pointer(context, builder, arg_types[7], args[7], row, args[9]) for row in rows]
        tile = _Tile(builder, arg_types[0].dtype, outputs)
        with cgutils.for_range(builder, args[6]) as loop:
            source = row_number(context, builder, arg_types[1], args[1], loop.index)
            scalars = element_pointer(context, builder, arg_types[0], args[0], source, args[2])
            source = row_number(context, builder, arg_types[4], args[4], loop.index)
            row = element_pointer(context, builder, arg_types[3], args[3], source, args[5])
            tile.add_product([builder.gep(scalars, [word(number)]) for number in range(TILE_ROWS)], row)
        tile.store()
        return context.get_dummy_value()

    return signature, generate


@compiled
def _any_nonzero(weight, tap):
    for output in range(weight.shape[0]):
        is_used = False
        for k in range(weight.shape[2]):  # to the end, which the compiler can make vectors of
            is_used |= weight[output, tap, k] != 0
        if is_used:
            return True
    return False


@team_kernel
def find_used_taps(chunk, first, last, weight, taps, used):
    """used[n] = whether any value of tap taps[n] of a (C_out, all taps, C_in / groups) weight is not zero."""
    for number in range(first, last):
        used[number] = _any_nonzero(weight, taps[number])


@team_kernel
def pack_weight(chunk, first_tap, last_tap, weight, taps, groups, used, packed):
    """Lays the used taps of a (C_out, all taps, C_in / groups) weight out as `multiply_rows` reads them.

    packed[n, panel, k, j] = weight[output j of the panel, taps[n], k], a panel never reaching over two groups, and zero
    where a group has no such output.
    """
    outputs, _, depth = weight.shape
    width = packed.shape[3]
    group_outputs = outputs // groups
    group_panels = packed.shape[1] // groups
    for number in range(first_tap, last_tap):
        if not used[number]:
            continue
        tap = taps[number]
        for panel in range(packed.shape[1]):
            start = (panel % group_panels) * width
            first = (panel // group_panels) * group_outputs + start
            count = min(width, group_outputs - start)
            if count < width:
                packed[number, panel] = 0
            if weight.strides[2] < weight.strides[0]:
                for j in range(count):
                    for k in range(depth):
                        packed[number, panel, k, j] = weight[first + j, tap, k]
            else:
                for k in range(depth):
                    for j in range(count):
                        packed[number, panel, k, j] = weight[first + j, tap, k]


@compiled
def collect_pairs(table, tap, start, stop, sources, targets):
    """Writes the pairs of one tap on outputs start to stop; returns their number."""
    count = 0
    for row in range(start, stop):
        sources[count] = table[tap, row]
        targets[count] = row
        count += table[tap, row] >= 0
    return count


@compiled
def _multiply_pairs(features, sources, count, column, depth, panels, place, out, targets, out_column, columns):
    """Adds `count` rows of features times the panel at `place` to the first `columns` of its columns of `out`.

    The last tile reads sources and targets beyond `count`.
    """
    width = PANEL_BYTES // features.itemsize
    if columns == width:
        for pair in range(0, count, TILE_ROWS):
            _multiply_tile(features, sources, pair, column, depth, panels, place, out, targets, out_column)
        return
    numbers, scratch = np.arange(TILE_ROWS).astype(np.int32), np.empty((TILE_ROWS, width), features.dtype)
    for pair in range(0, count, TILE_ROWS):
        scratch[:] = 0
        _multiply_tile(features, sources[pair:], 0, column, depth, panels, place, scratch, numbers, 0)
        for m in range(TILE_ROWS):
            for j in range(columns):
                out[targets[pair + m], out_column + j] += scratch[m, j]


@compiled
def _collect_tiles(table, tap, start, stop, sources, targets, spare):
    """Collects pairs as `collect_pairs` does and fills the last tile up, with products that go to row `spare`."""
    count = collect_pairs(table, tap, start, stop, sources, targets)
    sources[count : count + TILE_ROWS - 1] = sources[0]
    targets[count : count + TILE_ROWS - 1] = spare
    return count


@team_kernel
def multiply_rows(chunk, start, stop, features, table, packed, used, groups, out):
    """out[o] += sum over taps k of features[table[k, o]] times packed[k], a group at a time, for rows start to stop.

    `out` has a row more for each chunk behind those of `table`, which takes what the tiles compute beyond the last pair.
    """
    panels, depth, width = packed.shape[1:]
    flat = packed.reshape(-1)
    group_panels, group_outputs = panels // groups, out.shape[1] // groups
    blocks = max((stop - start) // max(_CACHED_VALUES // max(features.shape[1], out.shape[1]), _FEWEST_ROWS), 1)
    block = max(-(-(stop - start) // blocks), 1)
    sources, targets = np.empty(block + TILE_ROWS, np.int32), np.empty(block + TILE_ROWS, np.int32)
    for first in range(start, stop, block):
        for tap in range(table.shape[0]):
            if not used[tap]:
                continue
            count = _collect_tiles(table, tap, first, min(first + block, stop), sources, targets, table.shape[1] + chunk)
            for depth_start in range(0, depth, _DEPTH):
                steps = min(_DEPTH, depth - depth_start)
                for panel in range(panels):
                    place = ((tap * panels + panel) * depth + depth_start) * width
                    group, offset = panel // group_panels, panel % group_panels * width
                    column, out_column = group * depth + depth_start, group * group_outputs + offset
                    columns = min(width, group_outputs - offset)
                    _multiply_pairs(
                        features, sources, count, column, steps, flat, place, out, targets, out_column, columns
                    )  # fmt: skip


@team_kernel
def multiply_few_rows_back(chunk, first_panel, last_panel, gradient, table, weight, taps, used, out):
    """out[i] += sum over k of gradient[table[k, i]] times tap taps[k] of weight, for the panels first to last of `out`.

    Each panel of weights is laid out just before its few rows are multiplied by it, which memory does not notice.

    Args:
        gradient: (N_out, C_out).
        table: (K, N_in), a transposed kernel map.
        weight: (C_out, all taps, C_in).
        taps: (K,) int64.
        used: (K,) taps that are not all zero.
        out: (N_in + 1 for each chunk, C_in), zeros.
    """
    depth, rows = gradient.shape[1], table.shape[1]
    width = PANEL_BYTES // gradient.itemsize
    sources, targets = np.empty(rows + TILE_ROWS, np.int32), np.empty(rows + TILE_ROWS, np.int32)
    packed = np.zeros((last_panel - first_panel, min(depth, _FEW_DEPTH), width), gradient.dtype)
    flat = packed.reshape(-1)
    for number in range(table.shape[0]):
        if not used[number]:
            continue
        count = _collect_tiles(table, number, 0, rows, sources, targets, rows + chunk)
        for depth_start in range(0, depth, _FEW_DEPTH):
            steps = min(_FEW_DEPTH, depth - depth_start)
            for k in range(steps):
                for panel in range(first_panel, last_panel):
                    column = panel * width
                    for j in range(min(width, out.shape[1] - column)):
                        packed[panel - first_panel, k, j] = weight[depth_start + k, taps[number], column + j]
            for panel in range(first_panel, last_panel):
                place = (panel - first_panel) * packed.shape[1] * width
                column = panel * width
                columns = min(width, out.shape[1] - column)
                _multiply_pairs(
                    gradient, sources, count, depth_start, steps, flat, place, out, targets, column, columns
                )  # fmt: skip


@team_kernel
def correlate_rows(chunk, first_tile, last_tile, features, gradient, table, groups, group_inputs, group_outputs, out):
    """out[o, tap * C_in / groups + i] += sum over sites of gradient[site, o] * features[table[tap, site], i].

    For the tiles first to last of TILE_ROWS outputs, none reaching over two groups. `features` and `gradient` are at least
    a panel and a tile wide.
    """
    width = PANEL_BYTES // features.itemsize
    group_tiles = -(-group_outputs // TILE_ROWS)
    block = 256
    sources = np.empty(block + 1, np.int32)
    targets = np.empty(block + 1, np.int32)
    scratch = np.empty((TILE_ROWS, width), features.dtype)
    for tap in range(table.shape[0]):
        for start in range(0, table.shape[1], block):
            count = collect_pairs(table, tap, start, min(start + block, table.shape[1]), sources, targets)
            if count == 0:
                continue
            for tile in range(first_tile, last_tile):
                group, offset = tile // group_tiles, tile % group_tiles * TILE_ROWS
                rows = min(TILE_ROWS, group_outputs - offset)
                row = group * group_outputs + offset
                left = min(row, gradient.shape[1] - TILE_ROWS)
                for first in range(0, group_inputs, width):
                    columns = min(width, group_inputs - first)
                    column = group * group_inputs + first
                    right = min(column, features.shape[1] - width)
                    place = tap * group_inputs + first
                    if rows == TILE_ROWS and columns == width:
                        _correlate_tile(gradient, targets, left, features, sources, right, count, out, row, place)
                        continue
                    scratch[:] = 0
                    _correlate_tile(gradient, targets, left, features, sources, right, count, scratch, 0, 0)
                    for m in range(rows):
                        for j in range(columns):
                            out[row + m, place + j] += scratch[row - left + m, column - right + j]
