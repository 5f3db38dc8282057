"""Depthwise convolution on a GPU: the numba kernels' two passes in Triton.

Tables and features may hold more than 2^31 elements. What a tap does not read is not multiplied, so that a weight which is no
number stays with the outputs that read it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_SPLITS = 32


@triton.jit
def _forward(features, table, weight, out, rows, channels, taps, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), dtype=tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32)
    sources = table + row
    for tap in range(taps):
        source = tl.load(sources, mask=row < rows, other=-1).to(tl.int64)
        sources += rows  # a pointer is 64 bits long, `tap * rows` would be 32
        there = (source >= 0)[:, None] & (channel < channels)[None, :]
        value = tl.load(features + source[:, None] * channels + channel[None, :], mask=there, other=0.0)
        factor = tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0)
        total += tl.where(there, value.to(total.dtype) * factor.to(total.dtype)[None, :], 0.0)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    tl.store(out + row[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _correlate(
    features, table, gradient, partial, rows, channels, taps, ROWS: tl.constexpr, CHANNELS: tl.constexpr  # noqa: N803
):  # fmt: skip
    tap, split, splits = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), dtype=partial.dtype.element_ty)  # whose rows are added up once, at the end
    sources = table + tap.to(tl.int64) * rows
    for block in range(split, tl.cdiv(rows, ROWS), splits):
        row = tl.arange(0, ROWS).to(tl.int64) + block * ROWS
        source = tl.load(sources + row, mask=row < rows, other=-1).to(tl.int64)
        there = (source >= 0)[:, None] & (channel < channels)[None, :]
        value = tl.load(features + source[:, None] * channels + channel[None, :], mask=there, other=0.0)
        upstream = tl.load(gradient + row[:, None] * channels + channel[None, :], mask=there, other=0.0)
        total += value.to(total.dtype) * upstream.to(total.dtype)
    tl.store(partial + (split * taps + tap) * channels + channel, tl.sum(total, axis=0), mask=channel < channels)


def forward(features: Tensor, weight: Tensor, table: Tensor, block: tuple[int, int]) -> Tensor:
    """out[o] = sum over taps k of features[table[k, o]] * weight[k]: (N_in, C), (K, C), (K, N_out) -> (N_out, C).

    `block` is how many rows and channels a program computes, powers of 2.
    """
    taps, rows = table.shape
    channels = features.shape[1]
    out = features.new_empty((rows, channels))
    grid = (triton.cdiv(rows, block[0]), triton.cdiv(channels, block[1]))
    arrays = (features.contiguous(), table.contiguous(), weight.contiguous(), out)
    with torch.cuda.device_of(features):  # which need not be the current one
        _forward[grid](*arrays, rows, channels, taps, ROWS=block[0], CHANNELS=block[1])
    return out


def weight_gradient(features: Tensor, gradient: Tensor, table: Tensor, block: tuple[int, int]) -> Tensor:
    """The (K, C) weight gradient of `forward`; partial sums are added in order, so that runs give the same bits."""
    taps, rows = table.shape
    channels = features.shape[1]
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    partial = torch.empty((_SPLITS, taps, channels), dtype=wide, device=features.device)
    grid = (taps, triton.cdiv(channels, block[1]), _SPLITS)
    arrays = (features.contiguous(), table.contiguous(), gradient.contiguous(), partial)
    with torch.cuda.device_of(features):
        _correlate[grid](*arrays, rows, channels, taps, ROWS=block[0], CHANNELS=block[1])
    return partial.sum(0).to(features.dtype)
