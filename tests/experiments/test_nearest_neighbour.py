"""Chamfer distances against a k-d tree's, and the accuracy of the nearest cloud's class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from i2p_zoo.errors import CheckpointError
from i2p_zoo.experiments import nearest_neighbour
from i2p_zoo.experiments.nearest_neighbour import chamfer_distances, run_nearest_neighbour


def test_distances_are_those_of_a_tree():
    random = np.random.default_rng(0)
    query, candidates = random.normal(size=(50, 3)), random.normal(size=(70, 50, 3))
    expected = [
        (cKDTree(other).query(query)[0] ** 2).mean() + (cKDTree(query).query(other)[0] ** 2).mean() for other in candidates
    ]
    actual = chamfer_distances(torch.from_numpy(query), torch.from_numpy(candidates))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_a_cloud_has_the_class_of_the_nearest(splits, tmp_path):
    train_set, test_set = splits
    metrics = run_nearest_neighbour(train_set, test_set, tmp_path)
    trees = [cKDTree(cloud) for cloud in train_set.points]
    nearest = [
        np.argmin([
            (tree.query(cloud)[0] ** 2).mean() + (cKDTree(cloud).query(tree.data)[0] ** 2).mean() for tree in trees
        ])
        for cloud in test_set.points
    ]  # fmt: skip
    assert metrics["test"]["top1"] == pytest.approx((train_set.labels[nearest] == test_set.labels).mean())
    assert run_nearest_neighbour(train_set, train_set, tmp_path / "same")["test"]["top1"] == 1.0


def test_nothing_is_computed_twice_for_the_same_clouds(splits, tmp_path, monkeypatch):
    first = run_nearest_neighbour(*splits, tmp_path)
    monkeypatch.setattr(nearest_neighbour, "chamfer_distances", lambda *args: pytest.fail("computed again"))
    assert run_nearest_neighbour(*splits, tmp_path) == first
    other = dataclasses.replace(splits[0], labels=splits[0].labels[::-1].copy())
    with pytest.raises(pytest.fail.Exception):
        run_nearest_neighbour(other, splits[1], tmp_path)


def test_damaged_figures_are_told(splits, tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        run_nearest_neighbour(*splits, tmp_path)


def test_clouds_of_any_number_of_points_are_compared(splits, tmp_path):
    small = dataclasses.replace(splits[0], points=[cloud[: 3 + n] for n, cloud in enumerate(splits[0].points)])
    assert run_nearest_neighbour(small, small, tmp_path)["test"]["top1"] == 1.0
