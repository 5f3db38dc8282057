"""Sums over the voxels of each sample on a GPU, in a fixed order and without atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _CHANNELS, _SPLITS = 16, 64, 16


@triton.jit
def _sum_rows(
    values, order, starts, partial, channels, HAS_ORDER: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr  # noqa: N803
):  # fmt: skip
    sample, samples, split, splits = tl.program_id(0), tl.num_programs(0), tl.program_id(2), tl.num_programs(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), dtype=partial.dtype.element_ty)
    last = tl.load(starts + sample + 1)
    first = tl.load(starts + sample) + split * ROWS
    for block in range(first, last, splits * ROWS):
        row = block + tl.arange(0, ROWS).to(tl.int64)
        inside = row < last
        if HAS_ORDER:
            row = tl.load(order + row, mask=inside, other=0)
        there = inside[:, None] & (channel < channels)[None, :]
        total += tl.load(values + row[:, None] * channels + channel[None, :], mask=there, other=0.0).to(total.dtype)
    tl.store(partial + (split * samples + sample) * channels + channel, tl.sum(total, axis=0), mask=channel < channels)


def sum_samples(values: Tensor, order: Tensor | None, starts: Tensor) -> Tensor:
    """The sums (B, C) of the rows order[starts[b]] to order[starts[b + 1] - 1] of (N, C) values.

    `order` is (N,) int64, or None for rows in order; `starts` (B + 1,) int64. Half precision is added up in float32.
    """
    samples, channels = len(starts) - 1, values.shape[1]
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    splits = min(max(len(values) // max(samples * 4 * _ROWS, 1), 1), _SPLITS)  # by shape alone, as the order of sums is then
    partial = torch.empty((splits, samples, channels), dtype=wide, device=values.device)
    if partial.numel():
        grid = (samples, triton.cdiv(channels, _CHANNELS), splits)
        arrays = (values.contiguous(), starts if order is None else order, starts, partial)
        with torch.cuda.device_of(partial):  # Triton launches on the current device
            _sum_rows[grid](*arrays, channels, HAS_ORDER=order is not None, ROWS=_ROWS, CHANNELS=_CHANNELS)
    return (partial[0] if splits == 1 else partial.sum(0)).to(values.dtype)
