"""Max pooling on a GPU: a window's maxima in one pass, and their gradients gathered in a fixed order, without atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _CHANNELS = 32, 64


@triton.jit(do_not_specialize=["rows", "taps"])
def _maximum(
    features, table, out, source_of, rows, channels, taps, ROWS: tl.constexpr, CHANNELS: tl.constexpr  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, is_channel = row < rows, (channel < channels)[None, :]
    best = tl.zeros((ROWS, CHANNELS), dtype=tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32)
    source_of_best = tl.full((ROWS, CHANNELS), -1, tl.int32)
    here = table + row
    for _ in range(taps):
        source = tl.load(here, mask=inside, other=-1)
        here += rows
        there = (source >= 0)[:, None] & is_channel
        place = features + source.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(place, mask=there, other=0.0).to(best.dtype)
        better = there & ((source_of_best < 0) | (value > best) | (value != value))
        best = tl.where(better, value, best)
        source_of_best = tl.where(better, source[:, None], source_of_best)
    place = row[:, None] * channels + channel[None, :]
    tl.store(out + place, best.to(out.dtype.element_ty), mask=inside[:, None] & is_channel)
    tl.store(source_of + place, source_of_best, mask=inside[:, None] & is_channel)


@triton.jit(do_not_specialize=["rows", "taps"])
def _pass_back(
    gradient, transposed, source_of, out, rows, channels, taps, ROWS: tl.constexpr, CHANNELS: tl.constexpr  # noqa: N803
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, is_channel = row < rows, (channel < channels)[None, :]
    total = tl.zeros((ROWS, CHANNELS), dtype=tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32)
    here = transposed + row
    for _ in range(taps):
        target = tl.load(here, mask=inside, other=-1).to(tl.int64)
        here += rows
        there = (target >= 0)[:, None] & is_channel
        place = target[:, None] * channels + channel[None, :]
        is_source = there & (tl.load(source_of + place, mask=there, other=-1) == row[:, None])
        total += tl.load(gradient + place, mask=is_source, other=0.0).to(total.dtype)
    place = row[:, None] * channels + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside[:, None] & is_channel)


def forward(features: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima over taps k of features[table[k, o]], and the int32 rows they came from; 0 and -1 where a window is empty.

    (N_in, C), (K, N_out) -> (N_out, C) twice. Of equals the first tap's counts, of NaN the last.
    """
    taps, rows = table.shape
    channels = features.shape[1]
    out = features.new_empty((rows, channels))
    source_of = torch.empty((rows, channels), dtype=torch.int32, device=features.device)
    if out.numel():
        arrays = (features.contiguous(), table.contiguous(), out, source_of)
        with torch.cuda.device_of(out):  # Triton launches on the current device
            _maximum[_grid(out)](*arrays, rows, channels, taps, ROWS=_ROWS, CHANNELS=_CHANNELS)
    return out, source_of


def input_gradient(gradient: Tensor, transposed: Tensor, source_of: Tensor) -> Tensor:
    """The sums of the gradients of the outputs whose maximum each input is: (N_out, C), (K, N_in), (N_out, C) -> (N_in, C)."""
    taps, rows = transposed.shape
    out = gradient.new_empty((rows, gradient.shape[1]))
    if out.numel():
        arrays = (gradient.contiguous(), transposed.contiguous(), source_of, out)
        with torch.cuda.device_of(out):  # Triton launches on the current device
            _pass_back[_grid(out)](*arrays, rows, out.shape[1], taps, ROWS=_ROWS, CHANNELS=_CHANNELS)
    return out


def _grid(out: Tensor) -> tuple[int, int]:
    return triton.cdiv(len(out), _ROWS), triton.cdiv(out.shape[1], _CHANNELS)
