"""What augmentation may do to a cloud, and how often."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from i2p_zoo.data import augment as augment_cloud

POINTS = np.random.default_rng(3).uniform(-0.5, 0.5, (5, 3)).astype(np.float32)

DRAWS = 3000


def augment(points, random):
    return augment_cloud({"points": points}, random)["points"]


@pytest.fixture(scope="module")
def draws():
    """Scale, shift and the largest jitter of many seeded augmentations, read off points at 0 and at (1, 1, 1)."""
    half = 200
    points = np.repeat(np.array([[0.0] * 3, [1.0] * 3], np.float32), half, axis=0)
    scales, shifts, jitters = [], [], []
    for seed in range(DRAWS):
        out = augment(points, np.random.default_rng(seed)).astype(np.float64)
        shift = out[:half].mean(0)
        shifts.append(shift)
        scales.append(out[half:].mean(0) - shift)
        jitters.append(np.abs(out[:half] - shift).max())
    return np.array(scales), np.array(shifts), np.array(jitters)


# The mean of 200 jitters is off by 0.0005 in the root mean square; 0.004 is beyond any of the draws.
SLACK = 0.004


def test_augmentation_stays_within_its_ranges_and_fills_them(draws):
    scales, shifts, jitters = draws
    for values, middle, reach in ((scales, 1, 0.1), (shifts, 0, 0.2)):
        for column in (values - middle).T:
            assert reach - SLACK < column.max() < reach + SLACK
            assert -reach - SLACK < column.min() < -reach + SLACK
    assert 0.0115 < jitters.max() < 0.0125 + SLACK
    moved = jitters[jitters > 1e-4]
    assert moved.min() > 0.011, "every jittered cloud has points that go nearly the whole way"


def test_augmentation_has_its_probabilities(draws):
    scales, shifts, jitters = draws
    scaled, shifted = np.abs(scales - 1).max(1) > SLACK, np.abs(shifts).max(1) > SLACK
    jittered = jitters > 1e-4
    for happened, probability in ((scaled, 0.9), (shifted, 0.9), (jittered, 0.7), (scaled & shifted & jittered, 0.567)):
        spread = np.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(happened.mean() - probability) < 4.5 * spread


def test_augmentation_draws_each_axis_by_itself(draws):
    scales, shifts, _ = draws
    for values in (scales, shifts):
        correlations = np.corrcoef(values[np.abs(values - np.round(values)).max(1) > SLACK].T)
        assert np.abs(correlations - np.eye(3)).max() < 0.1


def test_jitter_moves_every_coordinate_by_itself():
    outs = (augment(np.zeros((50, 3), np.float32), np.random.default_rng(seed)) for seed in itertools.count())
    jittered = next(out for out in outs if len(np.unique(out)) > 3)
    assert len(np.unique(jittered)) > 145


def test_augmentation_neither_changes_its_input_nor_hands_it_out():
    points, before = POINTS.copy(), POINTS.copy()
    for seed in range(2000):
        out = augment(points, np.random.default_rng(seed))
        assert not np.shares_memory(out, points), f"seed {seed} returns the stored cloud"
        assert out.dtype == np.float32
    assert np.array_equal(points, before)


def test_augmentation_is_reproducible_by_seed():
    first, again, other = (augment(POINTS, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
