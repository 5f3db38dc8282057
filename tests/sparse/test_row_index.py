"""Rows taken by number and their sums, against loops in float64, on both ways."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse import device_path
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.row_index import RowIndex, count_rows
from tests.atomic_sums import AtomicSums
from tests.helpers import property_test, relative_error, seeded
from tests.triton_tools import require_interpreter

WAYS = pytest.mark.parametrize("way", ["CPU", "torch on a device", "Triton"])


def on(way, monkeypatch=None):
    if way == "Triton":
        require_interpreter()
    if way == "torch on a device":
        monkeypatch.setattr(device_path, "has_triton", lambda: False)
    return contextlib.nullcontext() if way == "CPU" else force_device_path()


def looped(name, rows, count, values):
    """What a plain loop gives, by operations that autograd knows."""
    if name == "take":
        return torch.stack([values[row] for row in rows])
    parts = [[value for value, row in zip(values, rows, strict=True) if row == number] for number in range(count)]
    empty = torch.full(values.shape[1:], 0.0 if name == "sum" else -torch.inf, dtype=values.dtype)
    return torch.stack(
        [torch.stack(part).sum(0) if part and name == "sum" else torch.stack(part).amax(0) if part else empty for part in parts]
    )


@WAYS
@pytest.mark.parametrize("name", ["take", "sum", "largest"])
@pytest.mark.parametrize("trailing", [(), (3,), (2, 5)])
def test_values_and_gradients_are_those_of_a_loop(name, trailing, way, monkeypatch):
    rows, count = [3, 0, 3, 3, 1, 0], 5
    length = count if name == "take" else len(rows)
    values = torch.randint(-2, 3, (length, *trailing), generator=seeded(), dtype=torch.float64).requires_grad_()  # with equals
    expected = looped(name, rows, count, values)
    upstream = torch.randn(expected.shape, generator=seeded(1), dtype=torch.float64)
    with on(way, monkeypatch), AtomicSums() as sums:
        found = getattr(RowIndex(torch.tensor(rows), count), name)(values)
        (mine,) = torch.autograd.grad(found, [values], upstream)
    (theirs,) = torch.autograd.grad(expected, [values], upstream)
    assert torch.equal(found, expected)
    assert torch.allclose(mine, theirs, rtol=1e-14, atol=1e-14)
    assert way == "CPU" or not sums.names


@WAYS
@pytest.mark.parametrize("name", ["take", "sum"])
def test_gradients_have_gradients(name, way, monkeypatch):
    index = RowIndex(torch.tensor([2, 0, 2]), 3)
    values = torch.randn((3, 2), generator=seeded(), dtype=torch.float64).requires_grad_()
    with on(way, monkeypatch):
        assert torch.autograd.gradgradcheck(getattr(index, name), [values])


@WAYS
def test_rows_that_take_nothing_are_added_to_nothing(way, monkeypatch):
    index = RowIndex(torch.tensor([-1, 2, -1, 2, 0]), 4, has_missing=True)
    values = torch.arange(4.0)[:, None].requires_grad_()
    with on(way, monkeypatch):
        taken = index.take(values)
        (gradient,) = torch.autograd.grad(taken.sum(), [values])
        added = torch.arange(1.0, 6.0).requires_grad_()
        total = index.sum(added)
        (back,) = torch.autograd.grad(total.sum(), [added])
    assert taken.flatten().tolist()[1::2] == [2, 2]
    assert total.tolist() == [5, 0, 6, 0]
    assert back.tolist() == [0, 1, 0, 1, 1]
    assert way == "CPU" or gradient.flatten().tolist() == [1, 0, 2, 0]


@WAYS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32_and_rounded_once(dtype, way, monkeypatch):
    with on(way, monkeypatch):
        total = RowIndex(torch.zeros(4096, dtype=torch.int64), 1).sum(torch.ones((4096, 1), dtype=dtype))
    assert (total.item(), total.dtype) == (4096, dtype)


@WAYS
def test_nothing_is_taken_and_nothing_added(way, monkeypatch):
    index = RowIndex(torch.empty(0, dtype=torch.int64), 3)
    with on(way, monkeypatch):
        assert index.take(torch.ones((3, 2), requires_grad=True)).shape == (0, 2)
        assert index.sum(torch.ones((0, 2), requires_grad=True)).tolist() == [[0, 0]] * 3
        assert index.largest(torch.ones((0, 2))).tolist() == [[-torch.inf] * 2] * 3


@property_test
@given(st.lists(st.integers(0, 6), max_size=40), st.booleans())
def test_rows_in_order_are_found(rows, in_order):
    rows = sorted(rows) if in_order else rows
    index = RowIndex(torch.tensor(rows, dtype=torch.int64), 7, is_sorted=in_order)
    order, starts = index.segments
    assert (order is None) == in_order
    ordered = rows if order is None else [rows[i] for i in order]
    assert [ordered[a:b] for a, b in itertools.pairwise(starts)] == [[n] * rows.count(n) for n in range(7)]
    assert index.counts.tolist() == count_rows(index.rows, 7).tolist() == [rows.count(n) for n in range(7)]


def test_many_rows_of_few_numbers_are_added_in_parts(monkeypatch):
    values = torch.randn((3000, 3), generator=seeded(), dtype=torch.float64)
    rows = torch.randint(0, 2, (3000,), generator=seeded(1))
    with on("Triton"):
        total = RowIndex(rows, 2).sum(values)
    assert relative_error(total, torch.stack([values[rows == n].sum(0) for n in range(2)])) < 1e-14
