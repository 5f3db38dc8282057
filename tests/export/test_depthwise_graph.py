"""Depthwise convolutions in ONNX's operators, against sums over all taps by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.export.depthwise_graph import chunk_table, weigh_chunks
from tests.export.conftest import run_graph
from tests.helpers import property_test


def check_sums(outputs, taps, channels, share, seed=0):
    random = np.random.default_rng(seed)
    table = (random.integers(0, 31, (outputs, taps)) * (random.random((outputs, taps)) < share)).astype(np.int32)
    features = random.standard_normal((30, channels)).astype(np.float32)
    weight = random.standard_normal((taps, channels)).astype(np.float32)

    def build(op, features, table, weight):
        return weigh_chunks(op, features, chunk_table(op, table, channels), weight)

    padded = np.concatenate([np.zeros((1, channels)), features])
    sums = run_graph(build, features=features, table=table, weight=weight)
    np.testing.assert_allclose(sums, (padded[table] * weight).sum(1), rtol=0, atol=1e-4)


@property_test
@given(st.integers(1, 80), st.integers(1, 27), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 1000))
def test_sums_are_those_of_all_taps(outputs, taps, share, seed):
    check_sums(outputs, taps, 8, share, seed)


@pytest.mark.parametrize(("outputs", "channels"), [(1024, 3), (1025, 129), (3000, 1), (2049, 700), (9, 20_000)])
def test_chunks_of_any_size_end_where_outputs_do(outputs, channels):
    check_sums(outputs, 5, channels, 0.3)
