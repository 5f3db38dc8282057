"""Sites, voxels and kernel maps as a graph of ONNX's standard operators.

Voxels have keys, numbers in a box around all of them that sort as their coordinates do. The box has margins as wide as
windows reach, so that a voxel's neighbour has its key plus a constant, and no other voxel has that. Sums by index are
`ScatterElements`: onnxruntime's `ScatterND` adds from several threads at once and loses some.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from i2p_zoo.export.graph_builder import GraphBuilder
from i2p_zoo.sparse.geometry import Triple

_BEYOND = 2**63 - 1  # no key
_STRIDE = 16  # of the queries that are searched for among all keys


@dataclass
class Margins:
    """How far windows reach beyond a set of sites, (z, y, x) voxels below and above."""

    below: list[int] = field(default_factory=lambda: [0, 0, 0])
    above: list[int] = field(default_factory=lambda: [0, 0, 0])

    def widen_(
        self, before: Triple, stride: Triple, kernel: Triple, dilation: Triple, shift: Sequence[int] = (0, 0, 0)
    ) -> None:
        """Widens them to what a window may read whose outputs are the sites' floor(c / stride) - shift, or less shifted."""
        for axis in range(3):
            moved, span = shift[axis] * stride[axis], (kernel[axis] - 1) * dilation[axis]
            self.below[axis] = max(self.below[axis], stride[axis] - 1 + max(moved, 0) + before[axis])
            self.above[axis] = max(self.above[axis], span - before[axis] + max(-moved, 0))


@dataclass
class SiteSet:
    """A set of sites in the graph.

    Attributes:
        coords: (N, 4) int64, columns batch, z, y, x, in the order of the keys.
        keys: (N,) int64, ascending.
        low: (4,) int64, what stands at the beginning of the box, margins included.
        weights: (4,) int64, of each column in a key.
        ranks: (M,) int64, which site each of the rows is in that the set was made of.
    """

    coords: Any
    keys: Any
    low: Any
    weights: Any
    ranks: Any


def find_cells(op: GraphBuilder, points: Any, batch: Any, voxel_size: float) -> tuple[Any, Any]:
    """Returns the (N, 4) int64 cells of float32 points (N, 3), columns batch, z, y, x; and (N, 3) float64 z, y, x in voxels."""
    places = op.Div(op.Gather(op.cast(points, "float64"), np.array([2, 1, 0]), axis=1), np.float64(voxel_size))
    slack = np.float64(np.finfo(np.float32).eps)
    cells = op.cast(op.Floor(op.Add(places, op.Mul(op.Abs(places), slack))), "int64")
    return op.Concat(op.Unsqueeze(batch, np.array([1])), cells, axis=1), places


def unique_sites(op: GraphBuilder, rows: Any, margins: Margins) -> SiteSet:
    """Returns the sorted distinct ones of (M, 4) int64 rows."""
    axis = np.array([0])
    low = op.Sub(op.ReduceMin(rows, axis, keepdims=0), np.array([0, *margins.below]))
    extents = op.Add(op.Sub(op.ReduceMax(rows, axis, keepdims=0), low), np.array([1, *(side + 1 for side in margins.above)]))
    y, x = op.Gather(extents, np.array([2])), op.Gather(extents, np.array([3]))
    plane = op.Mul(y, x)
    weights = op.Concat(op.Mul(op.Gather(extents, np.array([1])), plane), plane, x, np.array([1]), axis=0)
    keys, order = op.TopK(_pack(op, rows, low, weights), op.length(rows), largest=0, outputs=2)
    is_other = op.Not(op.Equal(op.Slice(keys, np.array([1]), np.array([2**62])), op.Slice(keys, np.array([0]), np.array([-1]))))
    is_first = op.Concat(np.array([True]), is_other, axis=0)
    firsts = op.Squeeze(op.NonZero(is_first), axis)
    numbers = op.Sub(op.CumSum(op.cast(is_first, "int64"), 0), 1)
    ranks = op.ScatterElements(numbers, order, numbers)
    coords = op.Gather(rows, op.Gather(order, firsts))
    return SiteSet(coords, op.Gather(keys, firsts), low, weights, ranks)


def _pack(op: GraphBuilder, rows: Any, low: Any, weights: Any) -> Any:
    """(N,) int64 keys of (N, 4) rows, added column by column: onnxruntime's `ReduceSum` of int64 rounds to 53 bits."""
    products = op.Mul(op.Sub(rows, low), weights)
    batch, z, y, x = (op.Gather(products, column, axis=1) for column in range(4))
    return op.Add(op.Add(batch, z), op.Add(y, x))


def stride_rows(op: GraphBuilder, coords: Any, stride: Triple, shift: Triple) -> Any:
    """Returns (N, 4) int64 rows: floor(c / stride) - shift."""
    steps = np.array([1, *stride])
    rows = op.Div(op.Sub(coords, op.Mod(coords, steps)), steps)  # `Div` rounds towards zero, `Mod` has the divisor's sign
    return rows if not any(shift) else op.Sub(rows, np.array([0, *shift]))


def average_rows(op: GraphBuilder, values: Any, sites: SiteSet) -> Any:
    """Returns the float32 means of (M, C) values over the rows of each site, summed in float64 in the order of the rows."""
    index = op.Unsqueeze(sites.ranks, np.array([1]))
    wide = op.cast(values, "float64")
    ones = op.Expand(np.ones((1, 1)), op.Shape(index))
    rows = op.Concat(wide, ones, axis=1)
    width = op.Shape(rows, start=1, end=2)
    zeros = op.Expand(np.zeros((1, 1)), op.Concat(op.length(sites.coords), width, axis=0))
    sums = op.ScatterElements(zeros, op.Expand(index, op.Shape(rows)), rows, axis=0, reduction="add")
    total = op.Slice(sums, np.array([-1]), np.array([2**62]), np.array([1]))
    return op.cast(op.Div(op.Slice(sums, np.array([0]), np.array([-1]), np.array([1])), total), "float32")


def search_rows(op: GraphBuilder, sites: SiteSet, starts: Any, offsets: Sequence[Triple], *, is_sorted: bool = True) -> Any:
    """Returns (Q, taps) int32, one more than the row of the site at each place, 0 where there is none.

    Sites along x have keys one after the other: only the first of a line is searched for, and each later one stands where that
    before it does, or behind it.

    Args:
        op: of the graph.
        sites: that are searched.
        starts: (Q, 4) int64 places, at most a margin away from some site.
        offsets: (z, y, x) of the taps from there, x fastest.
        is_sorted: whether places ascend as sites do.
    """
    lines = sorted({(z, y) for z, y, _ in offsets})
    along = sorted({x for _, _, x in offsets})
    first = np.array([[0, z, y, along[0]] for z, y in lines])
    shifts = _pack(op, first, np.zeros(4, np.int64), sites.weights)
    keys = op.Add(op.Unsqueeze(_pack(op, starts, sites.low, sites.weights), np.array([1])), shifts)  # (Q, lines)
    padded = op.Concat(np.array([-1]), sites.keys, np.array([_BEYOND]), axis=0)
    place = op.Add((_count_less_sorted if is_sorted else _count_less)(op, sites.keys, keys), 1)  # in the padded keys
    columns = {}
    for x in range(along[0], along[-1] + 1):
        is_site = op.cast(op.Equal(op.Gather(padded, place), op.Add(keys, x - along[0])), "int64")
        columns[x] = op.Mul(place, is_site)
        place = op.Add(place, is_site)
    stacked = op.Concat(*(op.Unsqueeze(columns[x], np.array([2])) for x in along), axis=2)  # (Q, lines, along)
    rows = op.cast(op.Reshape(stacked, np.array([-1, len(lines) * len(along)])), "int32")
    places = {offset: number for number, offset in enumerate((z, y, x) for (z, y), x in itertools.product(lines, along))}
    chosen = [places[offset] for offset in offsets]
    return rows if chosen == list(range(len(places))) else op.Gather(rows, np.array(chosen), axis=1)


def _count_less_sorted(op: GraphBuilder, keys: Any, queries: Any) -> Any:
    """`_count_less` of (Q, lines) queries whose columns ascend: of every 16th first, between which the others' counts lie."""
    count = op.length(keys)
    bounds = _count_less(op, keys, op.Slice(queries, np.array([0]), np.array([2**62]), np.array([0]), np.array([_STRIDE])))
    last = op.Expand(count, op.Concat(np.array([1]), op.Shape(queries, start=1, end=2), axis=0))
    bounds = op.Concat(bounds, last, axis=0)
    span = op.ReduceMax(
        op.Sub(op.Slice(bounds, np.array([1]), np.array([2**62])), op.Slice(bounds, np.array([0]), np.array([-1]))), keepdims=0
    )
    numbers = op.Div(op.Range(0, op.Squeeze(op.length(queries)), 1), _STRIDE)
    return _count_less(op, keys, queries, op.Gather(bounds, numbers), op.Reshape(span, np.array([1])))


def _count_less(op: GraphBuilder, keys: Any, queries: Any, less: Any = None, span: Any = None) -> Any:
    """Returns how many of the ascending (N,) keys are less than each query: a binary search, all queries at once.

    Args:
        op: of the graph.
        keys, queries: int64.
        less: of each query a lower bound of its count, by default 0.
        span: (1,), how much more than that counts may be, by default N.
    """
    span = op.length(keys) if span is None else span
    less = op.Expand(np.int64(0), op.Shape(queries)) if less is None else less
    digits = np.int64(2) ** np.arange(31)
    rounds = op.ReduceSum(op.cast(op.LessOrEqual(digits, span), "int64"), np.array([0]), keepdims=0)
    step = op.Gather(np.append(digits, digits[-1]), rounds)
    padded = op.Concat(np.array([-1]), keys, op.Expand(np.array([_BEYOND]), op.Reshape(step, np.array([1]))), axis=0)

    def search(less: Any, step: Any) -> tuple[Any, Any]:
        half = op.Div(step, 2)
        is_less = op.Less(op.Gather(padded, op.Add(less, half)), queries)
        return op.Add(less, op.Mul(op.cast(is_less, "int64"), half)), half

    return op.loop(rounds, [less, step], search)[0]
