"""Kernel maps on a GPU: which site each tap reads, found by binary search in sorted keys, and the same the other way round."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128
_COUNTS = ["rows", "sites", "steps", "y_taps", "x_taps"]
_GEOMETRY = [f"{axis}_{name}" for name in ("stride", "before", "dilation") for axis in "zyx"]


@triton.jit
def _place(out, row, inside, box, axis: tl.constexpr, stride, offset):
    """Where a tap looks along an axis, its share of the key, and whether that is in the box of all sites."""
    place = tl.load(out + row * 4 + axis, mask=inside, other=0).to(tl.int64) * stride + offset
    low = tl.load(box + axis)
    within = (place >= low) & (place <= tl.load(box + 4 + axis))
    return (place - low) * tl.load(box + 8 + axis), within


@triton.jit(do_not_specialize=[*_COUNTS, *_GEOMETRY])
def _find_rows(
    keys, order, box, out, table, rows, sites, steps, y_taps, x_taps, z_stride, y_stride, x_stride,
    z_before, y_before, x_before, z_dilation, y_dilation, x_dilation, HAS_ORDER: tl.constexpr, ROWS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tap = tl.program_id(1).to(tl.int64)
    inside = row < rows
    z_offset = (tap // (x_taps * y_taps)) * z_dilation - z_before
    y_offset = (tap // x_taps % y_taps) * y_dilation - y_before
    x_offset = (tap % x_taps) * x_dilation - x_before
    key, there = _place(out, row, inside, box, 0, 1, 0)
    share, within = _place(out, row, inside, box, 1, z_stride, z_offset)
    key, there = key + share, there & within
    share, within = _place(out, row, inside, box, 2, y_stride, y_offset)
    key, there = key + share, there & within
    share, within = _place(out, row, inside, box, 3, x_stride, x_offset)
    key, there = key + share, there & within & inside
    first = tl.zeros((ROWS,), tl.int32)
    last = tl.where(there, sites, 0).to(tl.int32)
    for _ in range(steps):
        active = first < last
        middle = first + (last - first) // 2
        before = active & (tl.load(keys + middle, mask=active, other=0) < key)
        first = tl.where(before, middle + 1, first)
        last = tl.where(active & (before == 0), middle, last)
    near = there & (first < sites)
    is_site = near & (tl.load(keys + first, mask=near, other=0) == key)
    source = first
    if HAS_ORDER:
        source = tl.load(order + first, mask=is_site, other=0).to(tl.int32)
    tl.store(table + tap * rows + row, tl.where(is_site, source, -1), mask=inside)


@triton.jit(do_not_specialize=["inputs", "outputs"])
def _transpose(table, transposed, inputs, outputs, ROWS: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tap = tl.program_id(1).to(tl.int64)
    source = tl.load(table + tap * outputs + row, mask=row < outputs, other=-1).to(tl.int64)
    tl.store(transposed + tap * inputs + source, row.to(tl.int32), mask=source >= 0)


def find_rows(
    keys: Tensor,
    order: Tensor | None,
    box: Tensor,
    out: Tensor,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    before: tuple[int, int, int],
    dilation: tuple[int, int, int],
) -> Tensor:
    """table[tap, o] = the row of the site at o * stride - before + tap * dilation, -1 for none, taps with x fastest.

    Args:
        keys: (N,) int64, ascending, of the sites.
        order: (N,) int64 row of each key, or None where they are in order.
        box: (3, 4) int64, by batch, z, y, x: the least and the largest coordinate, and the weight of each in a key.
        out: (M, 4) int32.
        kernel, stride, before, dilation: of the window, (z, y, x).

    Returns:
        (taps, M) int32.
    """
    taps = kernel[0] * kernel[1] * kernel[2]
    table = torch.empty((taps, len(out)), dtype=torch.int32, device=out.device)
    if table.numel():
        grid = (triton.cdiv(len(out), _ROWS), taps)
        counts = (len(out), len(keys), len(keys).bit_length(), kernel[1], kernel[2])
        arrays = (keys, keys if order is None else order, box, out.contiguous(), table)
        with torch.cuda.device_of(table):  # Triton launches on the current device
            _find_rows[grid](*arrays, *counts, *stride, *before, *dilation, HAS_ORDER=order is not None, ROWS=_ROWS)
    return table


def transpose(table: Tensor, inputs: int) -> Tensor:
    """transposed[tap, table[tap, o]] = o, and -1 where no output reads the input: (K, N_out) -> (K, inputs) int32."""
    transposed = table.new_full((len(table), inputs), -1)
    if table.numel():
        grid = (triton.cdiv(table.shape[1], _ROWS), len(table))
        with torch.cuda.device_of(table):  # Triton launches on the current device
            _transpose[grid](table.contiguous(), transposed, inputs, table.shape[1], ROWS=_ROWS)
    return transposed
