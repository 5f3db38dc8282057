"""Groups of rows in dense blocks: nothing is lost, and little repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.token_groups import (
    CPU_LIMITS,
    DEVICE_LIMITS,
    Bands,
    GroupBlocks,
    fill,
    limits_for,
    segment,
    split_by_size,
)
from tests.helpers import property_test, seeded

lists_of_sizes = st.lists(st.sampled_from([0, 1, 2, 3, 7, 30, 90, 343]), min_size=1, max_size=25).filter(any)


def shuffled_ids(sizes: list[int]) -> torch.Tensor:
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ids[torch.randperm(len(ids), generator=seeded())]


def stack(ids: torch.Tensor, sizes: list[int], merged: bool) -> GroupBlocks:
    lengths = np.array(sizes)
    bands = Bands.of(split_by_size(lengths, lengths), "cpu") if merged else None
    return GroupBlocks(RowIndex(ids, len(sizes)), bands=bands)


@property_test
@given(lists_of_sizes, st.booleans())
def test_blocks_hold_each_row_once_and_give_it_back(sizes, merged):
    ids = shuffled_ids(sizes)
    groups = stack(ids, sizes, merged)
    values = torch.randn((len(ids), 2), generator=seeded())
    blocks = groups.gather(values)
    assert torch.equal(groups.scatter(blocks), values)
    assert torch.cat([part.groups for part in groups.parts]).sort()[0].tolist() == list(range(len(sizes)))
    for block, part in zip(blocks, groups.parts, strict=True):
        for group, rows, got in zip(part.groups.tolist(), part.rows, block, strict=True):
            assert rows.unique().tolist() == (ids == group).nonzero().flatten().tolist()  # none of another group
            assert torch.equal(got, values[rows])


@property_test
@given(lists_of_sizes)
def test_sums_of_blank_blocks_are_those_of_the_groups(sizes):
    ids = shuffled_ids(sizes)
    groups = stack(ids, sizes, merged=True)
    values = torch.randint(-9, 9, (len(ids), 2), generator=seeded())
    totals = groups.scatter_groups([block.sum(1) for block in groups.gather(values, blank=True)])
    assert torch.equal(totals, torch.zeros((len(sizes), 2), dtype=torch.int64).index_add(0, ids, values))


@property_test
@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), min_size=1, max_size=60))
def test_few_blocks_do_and_few_pairs_repeat(sizes):
    queries, keys = np.array(sizes).T
    bands = split_by_size(queries, keys)
    assert sorted(np.concatenate(bands).tolist()) == list(range(len(sizes)))
    for groups in bands:
        pairs = queries[groups] * keys[groups]
        stacked = int(queries[groups].max() * keys[groups].max()) * len(groups)
        kinds = len(np.unique(np.stack([queries, keys], 1)[groups], axis=0))
        assert stacked - int(pairs.sum()) <= CPU_LIMITS.repeated_pairs * (kinds - 1)
        assert kinds == 1 or int(pairs.min()) > 0  # a group without keys has none to repeat
        assert stacked <= CPU_LIMITS.pairs or len(groups) == 1


def test_windows_of_seventy_sizes_are_stacked_in_a_few_blocks():
    sizes = np.arange(1, 71).repeat(3)
    assert len(split_by_size(sizes, sizes)) < 15


def test_a_device_has_larger_and_fewer_blocks():
    sizes = np.arange(200, 232)  # tokens of clouds, no two of them alike
    counts = [len(split_by_size(sizes, sizes, limits)) for limits in (CPU_LIMITS, DEVICE_LIMITS)]
    assert counts[1] <= 2 < counts[0]
    assert limits_for(torch.zeros(1)) is CPU_LIMITS
    with force_device_path():
        assert limits_for(torch.zeros(1)) is DEVICE_LIMITS


@pytest.mark.parametrize(("ids", "passes"), [([0, 0, 1, 3], True), ([0, 1, 0, 3], False), ([2, 3, 0, 0], False)])
def test_rows_that_stand_group_after_group_are_not_moved(ids, passes):
    index = RowIndex(torch.tensor(ids), 4)
    in_order = Bands.of([np.array([0]), np.array([1, 3]), np.array([2])], "cpu")
    groups = GroupBlocks(index, bands=in_order if passes else None)
    values = torch.randn((4, 2), generator=seeded())
    blocks = groups.gather(values)
    assert (blocks[0].untyped_storage().data_ptr() == values.untyped_storage().data_ptr()) == passes
    assert torch.equal(groups.scatter(blocks), values)


def test_fill_writes_where_rows_repeat():
    block, filled = torch.ones(2, 4, 3, 5), torch.tensor([[True, True, True], [True, False, False]])
    got = fill(block, filled, -1, 2)
    assert (got[0] == 1).all()
    assert (got[1, :, 0] == 1).all()
    assert (got[1, :, 1:] == -1).all()
    assert fill(block, None, -1, 2) is block


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_half_precision_is_added_up_in_float32_and_rounded_once(dtype, reduction):
    values = torch.ones((4096, 1), dtype=dtype)  # in half precision itself 1 + 1 + ... stops at 256 or 2048
    index = RowIndex(torch.zeros(4096, dtype=torch.int64), 1)
    assert segment(values, index, reduction).item() == (4096 if reduction == "sum" else 1)
    assert segment(values, index, reduction).dtype == dtype


def test_segments_without_rows_are_zero():
    values, index = torch.tensor([[-1.0], [-3.0]]), RowIndex(torch.tensor([1, 1]), 3)
    assert segment(values, index, "amax").tolist() == [[0], [-1], [0]]
    assert segment(values, index, "mean").tolist() == [[0], [-2], [0]]
