"""Boxes of samples: where each begins and ends, whatever a few stray voxels do."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse.sample_boxes import sample_boxes
from tests.helpers import property_test

LARGEST = 2**31 - 1


@property_test
@given(st.lists(st.lists(st.integers(-LARGEST - 1, LARGEST), max_size=250), min_size=1, max_size=4), st.randoms())
def test_ends_are_those_of_sorted_coordinates_without_the_outermost_hundredth(samples, random):
    rows = [(number, value) for number, sample in enumerate(samples) for value in sample]
    random.shuffle(rows)
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    low, high = sample_boxes(table[:, 0], table[:, 1].int(), len(samples))
    for number, sample in enumerate(samples):
        strays = int(np.floor(len(sample) / 100))
        kept = sorted(sample)[strays : len(sample) - strays]
        assert (int(low[number]), int(high[number])) == ((kept[0], kept[-1]) if kept else (0, 0))


def test_one_stray_voxel_among_hundred_does_not_move_a_box():
    column = torch.arange(100)
    column[99] = 100_000
    low, high = sample_boxes(torch.zeros(100, dtype=torch.int64), column, 1)
    assert (int(low), int(high)) == (1, 98)
