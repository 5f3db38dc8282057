"""Groups of rows in dense blocks: nothing is lost, and little repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse.tokens.token_groups import MAX_PAIRS, MAX_REPEATED_PAIRS, GroupBlocks, fill, segment, split_by_size
from tests.helpers import property_test, seeded

lists_of_sizes = st.lists(st.sampled_from([0, 1, 2, 3, 7, 30, 90, 343]), min_size=1, max_size=25).filter(any)


def shuffled_ids(sizes: list[int]) -> torch.Tensor:
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ids[torch.randperm(len(ids), generator=seeded())]


@property_test
@given(lists_of_sizes, st.booleans())
def test_blocks_hold_each_row_once_and_give_it_back(sizes, merged):
    ids, lengths = shuffled_ids(sizes), torch.tensor(sizes)
    groups = GroupBlocks(ids, len(sizes), split_by_size(lengths, lengths) if merged else None)
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
    ids, lengths = shuffled_ids(sizes), torch.tensor(sizes)
    groups = GroupBlocks(ids, len(sizes), split_by_size(lengths, lengths))
    values = torch.randint(-9, 9, (len(ids), 2), generator=seeded())
    totals = groups.scatter_groups([block.sum(1) for block in groups.gather(values, blank=True)])
    assert torch.equal(totals, torch.zeros((len(sizes), 2), dtype=torch.int64).index_add(0, ids, values))


@property_test
@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), min_size=1, max_size=60))
def test_few_blocks_do_and_few_pairs_repeat(sizes):
    queries, keys = torch.tensor(sizes).T
    bands = split_by_size(queries, keys)
    assert torch.cat(bands).sort()[0].tolist() == list(range(len(sizes)))
    for groups in bands:
        pairs = queries[groups] * keys[groups]
        stacked = int(queries[groups].max() * keys[groups].max()) * len(groups)
        kinds = len(torch.stack([queries, keys], 1)[groups].unique(dim=0))
        assert stacked - int(pairs.sum()) <= MAX_REPEATED_PAIRS * (kinds - 1)
        assert kinds == 1 or int(pairs.min()) > 0  # a group without keys has none to repeat
        assert stacked <= MAX_PAIRS or len(groups) == 1


def test_windows_of_seventy_sizes_are_stacked_in_a_few_blocks():
    sizes = torch.arange(1, 71).repeat(3)
    assert len(split_by_size(sizes, sizes)) < 15


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
    index = torch.zeros(4096, dtype=torch.int64)
    assert segment(values, index, 1, reduction).item() == (4096 if reduction == "sum" else 1)
    assert segment(values, index, 1, reduction).dtype == dtype


def test_segments_without_rows_are_zero():
    values, index = torch.tensor([[-1.0], [-3.0]]), torch.tensor([1, 1])
    assert segment(values, index, 3, "amax").tolist() == [[0], [-1], [0]]
    assert segment(values, index, 3, "mean").tolist() == [[0], [-2], [0]]
