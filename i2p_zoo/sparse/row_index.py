"""Rows that are taken by number, and what is summed over all that took one: the same bits in each run, on a device too.

Torch adds up the gradient of `values[rows]`, and `index_add`, by atomic sums on a GPU, whose order differs from run to run.
Here rows that belong together are sorted and summed one after the other. Where no row is taken twice, torch's own will do.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.autograd_limits import ReverseModeFunction
from i2p_zoo.sparse.device_path import runs_triton, takes_device_path


class Segments(NamedTuple):
    """Rows in the order of their numbers.

    Attributes:
        order: (M,) int64, the row at each place, or None where they stand in order.
        starts: (count + 1,) int64, where each number's rows begin, and where the last ones end.
    """

    order: Tensor | None
    starts: Tensor


class RowIndex:
    """The number of one of several values for each row: what the row takes, or what it is added to.

    Args:
        rows: (M,) int64 from 0 to `count` - 1; -1 where a row takes nothing, if `has_missing`.
        count: number of values.
        has_missing: whether any row may be -1: what it takes has no meaning, and it is added to nothing.
        is_sorted: whether numbers never fall from a row to the next.

    Example:
        >>> index = RowIndex(torch.tensor([1, 0, 1]), 3)
        >>> index.take(torch.tensor([5.0, 6.0, 7.0])), index.sum(torch.tensor([1.0, 2.0, 4.0]))
        (tensor([6., 5., 6.]), tensor([2., 5., 0.]))
    """

    def __init__(self, rows: Tensor, count: int, *, has_missing: bool = False, is_sorted: bool = False) -> None:
        self.rows, self.count, self.has_missing, self.is_sorted = rows, count, has_missing, is_sorted

    @cached_property
    def segments(self) -> Segments:
        """The rows in the order of their numbers."""
        ordered, order = (self.rows, None) if self.is_sorted else self.rows.sort(stable=True)
        return Segments(order, torch.searchsorted(ordered, torch.arange(self.count + 1, device=ordered.device)))

    @cached_property
    def counts(self) -> Tensor:
        """(count,) int64: how many rows have each number."""
        return count_rows(self.rows, self.count)

    @cached_property
    def _taken(self) -> Tensor:
        return self.rows.clamp(min=0) if self.has_missing else self.rows

    def take(self, values: Tensor) -> Tensor:
        """Returns (M, ...): of (count, ...) values each row's."""
        if takes_device_path(values) and values.requires_grad:
            taken: Tensor = _Take.apply(values, self)
            return taken
        return values.index_select(0, self._taken)

    def sum(self, values: Tensor) -> Tensor:
        """Returns (count, ...): of (M, ...) values the sum over each number's rows; 0 where it has none.

        Half precision is added up in float32 and rounded once.
        """
        if takes_device_path(values):
            total: Tensor = _Sum.apply(values, self)
            return total
        if self.has_missing:
            values = values.masked_fill((self.rows < 0).view(-1, *[1] * (values.ndim - 1)), 0)
        wide = _widen(values)
        return wide.new_zeros((self.count, *values.shape[1:])).index_add(0, self._taken, wide).to(values.dtype)

    def largest(self, values: Tensor) -> Tensor:
        """Returns (count, ...): of (M, ...) values the largest of each number's rows; -inf where it has none.

        Equals share its gradient. No row is -1.
        """
        if takes_device_path(values) and values.requires_grad:
            largest: Tensor = _Largest.apply(values, self)
            return largest
        return _find_largest(values, self)


def count_rows(rows: Tensor, count: int) -> Tensor:
    """Returns (count,) int64: how many of (M,) int64 rows have each number; `torch.bincount` waits for a device."""
    return rows.new_zeros(count).scatter_add_(0, rows, torch.ones_like(rows))


def _widen(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _find_largest(values: Tensor, index: RowIndex) -> Tensor:
    wide = index.rows.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    return values.new_full((index.count, *values.shape[1:]), -torch.inf).scatter_reduce(0, wide, values, "amax")


class _Take(ReverseModeFunction):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: RowIndex) -> Tensor:
        ctx.index = index
        return values.detach().index_select(0, index._taken)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.index.sum(gradient), None


class _Sum(ReverseModeFunction):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: RowIndex) -> Tensor:
        ctx.index = index
        flat = values.detach().reshape(len(values), math.prod(values.shape[1:]))
        if runs_triton(flat):
            kernels = require("i2p_zoo.sparse.kernels.sample_sums_triton", extra="triton")
            total: Tensor = kernels.sum_samples(flat, *index.segments)
        else:
            order, starts = index.segments
            wide = _widen(flat)
            ordered = wide if order is None else wide.index_select(0, order)
            total = torch.segment_reduce(ordered, "sum", offsets=starts, initial=0, unsafe=True).to(flat.dtype)
        return total.view(index.count, *values.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        taken = ctx.index.take(gradient)
        if ctx.index.has_missing:
            taken = taken.masked_fill((ctx.index.rows < 0).view(-1, *[1] * (taken.ndim - 1)), 0)
        return taken, None


class _Largest(ReverseModeFunction):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: RowIndex) -> Tensor:
        out = _find_largest(values.detach(), index)
        ctx.index = index
        ctx.save_for_backward(values, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, out = ctx.saved_tensors
        is_largest = (values.detach() == out.detach().index_select(0, ctx.index.rows)).to(gradient.dtype)
        share = gradient / ctx.index.sum(is_largest).clamp(min=1)
        return ctx.index.take(share) * is_largest, None
