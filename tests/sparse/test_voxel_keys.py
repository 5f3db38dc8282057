"""Keys and bounds against numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse.voxel_keys import column_bounds, rank_keys
from tests.helpers import property_test, seeded

KEYS = st.integers(1, 62).flatmap(lambda bits: st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=60))


@given(keys=KEYS, copies=st.sampled_from([1, 3, 50]))
@property_test
def test_ranked_keys_are_numpy_unique(keys, copies):
    limit = max(keys) + 1
    keys = np.array(keys * copies, np.int32 if limit <= 2**31 else np.int64)
    distinct, inverse = np.unique(keys, return_inverse=True)
    ranks = keys.copy()
    assert rank_keys(ranks, limit).tolist() == distinct.tolist()
    assert ranks.tolist() == inverse.tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bits", [10, 20, 24, 40, 62])
def test_many_keys_are_ranked_alike_by_any_number_of_threads(bits, threads):
    keys = np.random.default_rng(0).integers(0, 2**bits, 50_000)
    distinct, inverse = np.unique(keys, return_inverse=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(rank_keys(keys, 2**bits), distinct)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(keys, inverse)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000])
def test_bounds_are_those_of_each_column(count, dtype):
    rows = (torch.randn((count, 4), generator=seeded()) * 1000).to(dtype)
    low, high = column_bounds(rows)
    assert (low, high) == (rows.amin(0).tolist(), rows.amax(0).tolist())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 16, 63])
def test_bounds_of_a_column_with_a_value_that_is_not_finite_are_nan_or_infinite(place, value):
    rows = torch.zeros((64, 3))
    rows[place, 1] = value
    bounds = np.array(column_bounds(rows))
    assert not np.isfinite(bounds[:, 1]).any()
    assert not bounds[:, [0, 2]].any()
