"""Labels that spread: against the closed form of the paper, in dense float64, and what no label reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from i2p_zoo.finetune import label_propagation
from i2p_zoo.finetune.label_propagation import propagate_labels


def draw_rows(count, channels, seed=0):
    return F.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def propagate_densely(rows, labels, classes):
    """0.2 (I - 0.8 A)^-1 Y of a graph that is written out, by numpy, before it is divided into shares."""
    rows = rows.numpy()
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    joined = np.zeros_like(cosines)
    for row, order in enumerate(np.argsort(-cosines, 1)[:, :8]):
        for other in order:
            if np.isfinite(cosines[row, other]):
                joined[row, other] = joined[other, row] = max(cosines[row, other], 0) ** 8
    total = np.sqrt(np.maximum(joined.sum(1), np.finfo(float).tiny))
    given_ = np.zeros((len(rows), classes))
    given_[np.arange(len(labels)), labels] = 1
    return 0.2 * np.linalg.solve(np.eye(len(rows)) - 0.8 * joined / total[:, None] / total, given_)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(2, 12), st.integers(1, 5), st.integers(0, 100))
def test_shares_are_those_of_the_closed_form(count, channels, classes, seed):
    rows = draw_rows(count, channels, seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, max(1, count // 4)))
    shares = propagate_labels(rows, labels, classes).numpy()
    expected = propagate_densely(rows, labels.numpy(), classes)
    sums = expected.sum(1)
    assert shares[: len(labels)].tolist() == np.eye(classes)[labels.numpy()].tolist()
    others = np.arange(count) >= len(labels)
    reached, left = others & (sums > 1e-11), others & (sums < 1e-13)  # between the two either will do
    np.testing.assert_allclose(shares[reached], expected[reached] / sums[reached, None], rtol=0, atol=1e-4)
    assert not shares[left].any()


def test_blocks_of_rows_change_nothing(monkeypatch):
    rows, labels = draw_rows(90, 6), torch.arange(3)
    whole = propagate_labels(rows, labels, 3)
    monkeypatch.setattr(label_propagation, "_BLOCK", 7)
    torch.testing.assert_close(propagate_labels(rows, labels, 3), whole, rtol=1e-10, atol=1e-12)


def test_a_group_that_holds_no_label_gets_none():
    rows = torch.zeros(24, 24, dtype=torch.float64)
    for group in (slice(0, 12), slice(12, 24)):
        rows[group, group] = draw_rows(12, 12).abs()
    rows = F.normalize(rows, dim=1)
    shares = propagate_labels(rows, torch.tensor([1]), 2)
    assert shares[:12].tolist() == [[0, 1]] * 12
    assert not shares[12:].any()


@pytest.mark.parametrize("count", [1, 2])
def test_so_few_clouds_that_there_are_less_neighbours(count):
    shares = propagate_labels(draw_rows(1, 4).expand(count, 4), torch.tensor([0]), 3)
    assert shares.tolist() == [[1, 0, 0]] * count
