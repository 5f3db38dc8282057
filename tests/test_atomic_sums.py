"""What a GPU adds up in any order is found, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.atomic_sums import AtomicSums

REPEATED, DISTINCT = torch.tensor([0, 2, 2]), torch.tensor([3, 0, 2])
CALLS = {
    "index_add": lambda values, rows: torch.zeros(4, 2).index_add(0, rows, values[:3]),
    "scatter_add": lambda values, rows: torch.zeros(4, 2).scatter_add(0, rows[:, None].expand(3, 2), values[:3]),
    "scatter_reduce": lambda values, rows: torch.zeros(4, 2).scatter_reduce(0, rows[:, None].expand(3, 2), values[:3], "sum"),
    "gradient of index_select": lambda values, rows: values.index_select(0, rows).sum().backward(),
    "gradient of gather": lambda values, rows: values.gather(0, rows[:, None].expand(3, 2)).sum().backward(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_sums_at_one_place_are_found_and_those_at_distinct_ones_are_not(call):
    for rows, count in ((REPEATED, 1), (DISTINCT, 0)):
        values = torch.randn(4, 2, requires_grad=True)
        with AtomicSums() as sums:
            call(values, rows)
        assert sums.names.total() == count, sums.names


@pytest.mark.parametrize(
    "call",
    [
        lambda values: F.embedding(REPEATED, values).sum().backward(),
        lambda values: F.interpolate(values[None, None], scale_factor=2, mode="bilinear").sum().backward(),
        lambda values: F.adaptive_avg_pool2d(values[None], 3).sum().backward(),
    ],
)
def test_kernels_that_always_do_are_found(call):
    values = torch.randn(4, 2, requires_grad=True)
    with AtomicSums() as sums:
        call(values)
    assert sums.names.total() == 1


def test_whole_numbers_maxima_and_what_is_sorted_are_the_same_in_any_order():
    with AtomicSums() as sums:
        torch.zeros(4, dtype=torch.int64).scatter_add_(0, REPEATED, torch.ones_like(REPEATED))
        torch.zeros(4).scatter_reduce(0, REPEATED, torch.ones(3), "amax")
        torch.zeros(4).index_put_((REPEATED,), torch.ones(3), accumulate=True)  # sorted first on a GPU
    assert not sums.names
