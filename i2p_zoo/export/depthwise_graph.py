"""Depthwise convolutions in ONNX's operators: a few outputs at a time, so that what is gathered for them stays in the cache.

Of 125 taps some 25 have a voxel. So what outputs read stands in lists, chunk after chunk of outputs that read about as much:
a chunk gathers the rows that its outputs read and their taps' weights, multiplies the two and adds up for each output. That is
20 to 30 times faster than all taps of all outputs at once, and takes no more memory for larger clouds. Outputs are sorted by
how many rows they read among neighbours only, since neighbours read the same rows.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from i2p_zoo._extras import require
from i2p_zoo.export.graph_builder import GraphBuilder
from i2p_zoo.sparse.engines.table_engine import weigh_taps

_DOMAIN = "i2p_zoo"
_CHUNK_VALUES = 8192  # outputs of a chunk times their channels: with what they read, as much as a core's cache holds
_LARGEST_CHUNK = 64
_NEIGHBOURS = 1024  # outputs that are sorted

torch.library.custom_op("i2p_zoo::depthwise", weigh_taps, mutates_args=())
torch.library.register_fake(
    "i2p_zoo::depthwise", lambda features, table, weight: features.new_empty((table.shape[0], features.shape[1]))
)


class ChunkedTable(NamedTuple):
    """What a kernel map's outputs read, chunk after chunk of sorted outputs; in a chunk each output has as many entries.

    Attributes:
        rows: (entries,) int32, one more than the row that is read, 0 for none.
        taps: (entries,) int32, the number of its tap.
        starts, ends: (chunks, 1) int64, where each chunk's entries stand.
        places: (outputs,) int64, where each output stands among the sorted ones.
        size: outputs of a chunk.
    """

    rows: Any
    taps: Any
    starts: Any
    ends: Any
    places: Any
    size: int


def keep_operations() -> dict[Any, Any]:
    """Returns how `torch.onnx` translates a kept depthwise convolution: to a node that `expand_depthwise` replaces."""
    values, defs = require("onnxscript.values", extra="onnx"), require("onnx.defs", extra="onnx")
    parameter = defs.OpSchema.FormalParameter
    schema = defs.OpSchema(
        "Depthwise",
        _DOMAIN,
        1,
        inputs=[parameter("features", "T"), parameter("table", "tensor(int32)"), parameter("weight", "T")],
        outputs=[parameter("sums", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
    )
    operator = values.Op(values.Opset(_DOMAIN, 1), "Depthwise", schema)

    def depthwise(features: Any, table: Any, weight: Any) -> Any:
        return operator(features, table, weight)

    return {torch.ops.i2p_zoo.depthwise.default: depthwise}


def expand_depthwise(op: GraphBuilder, graph: Any) -> None:
    """Replaces the kept depthwise convolutions of a graph by standard operators, in place."""
    nodes = [node for node in graph if node.domain == _DOMAIN]
    channels: dict[int, int] = {}
    for node in nodes:
        _, table, weight = node.inputs
        channels[id(table)] = max(channels.get(id(table), 1), weight.shape[1])
    tables: dict[int, ChunkedTable] = {}
    for node in nodes:
        features, table, weight = node.inputs
        op.nodes = []
        if id(table) not in tables:
            tables[id(table)] = chunk_table(op, table, channels[id(table)])
        result = weigh_chunks(op, features, tables[id(table)], weight)
        graph.insert_before(node, op.nodes)
        op.ir.convenience.replace_all_uses_with(node.outputs[0], result)
        graph.remove(node, safe=True)
    graph.opset_imports.pop(_DOMAIN, None)


def chunk_table(op: GraphBuilder, table: Any, channels: int) -> ChunkedTable:
    """Lists what the outputs of a (N_out, taps) int32 table read, for so many channels or fewer."""
    size = min(_LARGEST_CHUNK, 2 ** round(math.log2(max(_CHUNK_VALUES / channels, 1))))
    width = op.Shape(table, start=1, end=2)
    counts = op.ReduceSum(op.cast(op.Greater(table, np.int32(0)), "int64"), np.array([1]), keepdims=0)
    count = op.length(table)
    numbers = op.Range(0, op.Squeeze(count), 1)
    keys = op.Sub(op.Mul(op.Div(numbers, _NEIGHBOURS), op.Add(width, 1)), counts)
    _, order = op.TopK(keys, count, largest=0, outputs=2)
    places = op.ScatterElements(numbers, order, numbers)
    chunks = op.Div(op.Add(count, size - 1), size)
    rest = op.Expand(np.array([0]), op.Sub(op.Mul(chunks, size), count))
    sorted_counts = op.Reshape(op.Concat(op.Gather(counts, order), rest, axis=0), np.array([-1, size]))
    most = op.Max(op.ReduceMax(sorted_counts, np.array([1]), keepdims=0), np.array([1]))  # entries of an output, by chunk
    ends = op.CumSum(op.Mul(most, size), 0)
    starts = op.Sub(ends, op.Mul(most, size))
    chunk = op.Div(places, size)
    first = op.Add(op.Gather(starts, chunk), op.Mul(op.Mod(places, size), op.Gather(most, chunk)))
    pairs = op.NonZero(table)  # rising by outputs
    outputs, taps = op.Gather(pairs, 0), op.Gather(pairs, 1)
    passed = op.Sub(first, op.CumSum(counts, 0, exclusive=1))
    entries = op.Add(op.Gather(passed, outputs), op.Range(0, op.Squeeze(op.length(outputs)), 1))
    empty = op.Expand(np.zeros(1, np.int32), op.Gather(ends, np.array([-1])))
    values = op.Gather(op.Reshape(table, np.array([-1])), op.Add(op.Mul(outputs, width), taps))
    return ChunkedTable(
        op.ScatterElements(empty, entries, values),
        op.ScatterElements(empty, entries, op.cast(taps, "int32")),
        op.Unsqueeze(starts, np.array([1])),
        op.Unsqueeze(ends, np.array([1])),
        places,
        size,
    )


def weigh_chunks(op: GraphBuilder, features: Any, table: ChunkedTable, weight: Any) -> Any:
    """Returns the (N_out, C) sums of rows of (N_in, C) features times their taps' weights (taps, C)."""
    padded = op.Pad(features, np.array([1, 0, 0, 0]))
    width = op.Shape(features, start=1, end=2)
    shape = op.Concat(np.array([table.size, -1]), width, axis=0)

    def weigh_chunk(chunk: Any) -> Any:
        start, end = op.Gather(table.starts, chunk), op.Gather(table.ends, chunk)
        rows = op.Gather(padded, op.Slice(table.rows, start, end))
        products = op.Mul(rows, op.Gather(weight, op.Slice(table.taps, start, end)))
        return op.ReduceSum(op.Reshape(products, shape), np.array([1]), keepdims=0)

    stacked = op.collect(op.Squeeze(op.length(table.starts)), weigh_chunk)  # (chunks, size, C)
    return op.Gather(op.Reshape(stacked, op.Concat(np.array([-1]), width, axis=0)), table.places)
