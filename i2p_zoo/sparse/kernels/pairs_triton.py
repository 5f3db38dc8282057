"""The pairs of a kernel map's taps on a GPU, listed tap after tap with nothing waited for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 512


@triton.jit(do_not_specialize=["rows", "blocks"])
def _count_pairs(table, counts, rows, blocks, ROWS: tl.constexpr):  # noqa: N803
    block, tap = tl.program_id(0), tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    source = tl.load(table + tap.to(tl.int64) * rows + row, mask=row < rows, other=-1)
    tl.store(counts + tap * blocks + block, tl.sum((source >= 0).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["rows", "blocks"])
def _list_pairs(table, ends, inputs, outputs, starts, rows, blocks, ROWS: tl.constexpr):  # noqa: N803
    block, tap = tl.program_id(0), tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    source = tl.load(table + tap.to(tl.int64) * rows + row, mask=row < rows, other=-1)
    is_pair = (source >= 0).to(tl.int32)
    end = tl.load(ends + tap * blocks + block)
    place = end - tl.sum(is_pair, axis=0) + tl.cumsum(is_pair, axis=0) - 1
    tl.store(inputs + place, source, mask=source >= 0)
    tl.store(outputs + place, row, mask=source >= 0)
    if block == blocks - 1:
        tl.store(starts + tap + 1, end)
    if block + tap == 0:
        tl.store(starts, 0)


def list_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the input rows of a (K, N) table's pairs, their outputs, and where each tap's begin, for three launches.

    N is at least 1, K * N less than 2^31.

    Returns:
        inputs, outputs: (K * N,) int32, tap after tap, outputs rising within each; behind the last pair anything.
        starts: (K + 1,) int32, of each tap and of the end.
    """
    taps, rows = table.shape
    blocks = triton.cdiv(rows, _ROWS)
    counts, starts = (table.new_empty(size) for size in (taps * blocks, taps + 1))
    inputs, outputs = (table.new_empty(table.numel()) for _ in range(2))
    table = table.contiguous()
    with torch.cuda.device_of(table):  # Triton launches on the current device
        _count_pairs[(blocks, taps)](table, counts, rows, blocks, ROWS=_ROWS)
        ends = counts.cumsum(0, dtype=torch.int32)
        _list_pairs[(blocks, taps)](table, ends, inputs, outputs, starts, rows, blocks, ROWS=_ROWS)
    return inputs, outputs, starts
