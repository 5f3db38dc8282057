"""Batches of clouds: none loses or repeats a cloud, each follows from its number and the seed; and what augmentation may do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from i2p_zoo.data import CloudSet, TrainingBatches, evaluation_batches
from i2p_zoo.data import augment as augment_cloud
from i2p_zoo.inflation.settings import Settings


def make_clouds(count, points=5, classes=None):
    """Clouds whose labels are their numbers, or these modulo a number of classes."""
    random = np.random.default_rng(3)
    labels = np.arange(count) % (classes or count)
    names = tuple(f"class {number}" for number in range(classes or count))
    return CloudSet(random.uniform(-0.5, 0.5, (count, points, 3)).astype(np.float32), labels.astype(np.int64), names)


def take(clouds, batch_size, seed, batches):
    source = TrainingBatches(clouds, batch_size, seed)
    taken = [source[step] for step in range(batches)]
    return [([cloud["points"] for cloud, _ in batch], torch.tensor([label for _, label in batch])) for batch in taken]


def labels_of(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 25], ids=lambda size: f"batches of {size}")
def test_every_cloud_comes_once_an_epoch_also_across_batches(batch_size):
    epochs, count = 5, 10
    batches = take(make_clouds(count), batch_size, 0, epochs * count // batch_size)
    assert all(len(points) == len(labels) == batch_size for points, labels in batches)
    seen = labels_of(batches)
    whole = [seen[start : start + count] for start in range(0, len(seen) - count + 1, count)]
    assert len(whole) >= epochs - 2
    assert all(sorted(epoch) == list(range(count)) for epoch in whole)
    assert len({tuple(epoch) for epoch in whole}) == len(whole), "each epoch is shuffled anew"


def test_a_batch_pairs_each_cloud_with_its_label():
    clouds = make_clouds(8)
    offsets = np.arange(8, dtype=np.float32)[:, None, None] * 10  # far more than augmentation moves
    far = CloudSet(clouds.points * 0.01 + offsets, clouds.labels, clouds.classes)
    for points, labels in take(far, 3, 1, 6):
        assert labels.dtype == torch.int64
        for cloud, label in zip(points, labels.tolist(), strict=True):
            assert cloud.shape == (5, 3)
            assert cloud.dtype == np.float32
            assert 9 * label - 0.5 < cloud.min() <= cloud.max() < 11 * label + 0.5


def test_batches_are_reproducible_by_seed_whatever_the_global_random_state():
    clouds = make_clouds(9)
    runs = []
    for seed, state in ((5, 0), (5, 1), (6, 0)):
        np.random.seed(state)
        torch.manual_seed(state)
        runs.append(take(clouds, 4, seed, 6))
    first, again, other = runs
    assert labels_of(first) == labels_of(again) != labels_of(other)
    for (a, _), (b, _) in zip(first, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_epochs_see_a_cloud_augmented_anew_and_leave_the_set_as_it_was():
    clouds = make_clouds(2)
    before = clouds.points.copy()
    seen = [points[i] for points, labels in take(clouds, 2, 0, 20) for i in range(2) if labels[i] == 0]
    assert len({cloud.tobytes() for cloud in seen}) >= 19
    assert np.array_equal(clouds.points, before)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_evaluation_keeps_the_order_and_covers_every_cloud(batch_size):
    clouds = make_clouds(5, points=1)
    batches = list(evaluation_batches(clouds, batch_size, Settings(voxel_size=0.05)))
    sizes = [x.batch_size for x in batches]
    assert sizes == [min(batch_size, 5 - start) for start in range(0, 5, batch_size)]
    assert np.array_equal(np.concatenate([x.features.numpy() for x in batches]), clouds.points[:, 0])
    assert [x.coords[:, 0].tolist() for x in batches] == [list(range(size)) for size in sizes]


def test_evaluation_voxelizes_by_the_models_settings():
    clouds = CloudSet(np.array([[[0.1, 0.5, -0.3], [0.3, 0.6, -0.3]]], np.float32), np.zeros(1, np.int64), ("a",))
    (fine,) = evaluation_batches(clouds, 1, Settings(voxel_size=0.25, features="ones"))
    assert fine.coords.tolist() == [[0, -2, 2, 0], [0, -2, 2, 1]]
    assert fine.features.tolist() == [[1.0], [1.0]]
    (coarse,) = evaluation_batches(clouds, 1, Settings(voxel_size=1.0))
    assert coarse.coords.tolist() == [[0, -1, 0, 0]]
    assert torch.allclose(coarse.features, torch.tensor([[0.2, 0.55, -0.3]]))


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
