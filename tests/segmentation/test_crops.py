"""Crops of scenes: the points that a box takes, and batches that follow from their number."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import IGNORED, SceneSet
from i2p_zoo.data.specs import load_scenes
from i2p_zoo.segmentation import crops
from i2p_zoo.segmentation.crops import Cropping, SceneBatches, as_cloud, center, choose_crop, turn
from tests.segmentation.conftest import CLASSES, make_scene, make_set


def numbered_scene(count=200):
    """Points within 10 x 10 x 10 units with an intensity, and arrays whose `labels` are the rows."""
    random = np.random.default_rng(0)
    points = np.column_stack([random.uniform(-5, 5, (count, 3)), np.full(count, 1000)]).astype(np.float32)
    normals = random.normal(size=(count, 3)).astype(np.float32)
    return {"points": points, "labels": np.arange(count), "normals": normals}


def assert_taken(crop, scene):
    assert crop.keys() == scene.keys()
    for name, values in crop.items():
        assert np.array_equal(values, scene[name][crop["labels"]])
        assert values.dtype == scene[name].dtype
        assert not np.shares_memory(values, scene[name])


@pytest.mark.parametrize("extent", [3, (4, 2, 6), (2, 2, np.inf), 1e-12, None])
def test_a_crop_has_the_points_within_half_its_extent_of_one_of_them(extent):
    scene, random, centers = numbered_scene(), np.random.default_rng(0), set()
    edges = np.broadcast_to(np.inf if extent is None else extent, 3)
    for _ in range(20):
        chosen = copy.deepcopy(random).integers(200)
        centers.add(chosen)
        crop = choose_crop(scene, extent, None, random)
        places, middle = scene["points"], scene["points"][chosen]
        inside = [all(abs(p - c) <= e / 2 for p, c, e in zip(point, middle, edges, strict=False)) for point in places]
        assert crop["labels"].tolist() == np.flatnonzero(inside).tolist()
        assert chosen in crop["labels"]
        assert_taken(crop, scene)
    assert len(centers) > 10, "the centre is drawn anew each time"


def test_a_crop_of_too_many_points_is_drawn_down_to_different_ones():
    scene, random = numbered_scene(), np.random.default_rng(0)
    drawn = [choose_crop(scene, None, 50, random) for _ in range(30)]
    for crop in drawn:
        assert len(crop["labels"]) == 50
        assert (np.diff(crop["labels"]) > 0).all(), "no row twice, in the scene's order"
        assert_taken(crop, scene)
    assert set(np.concatenate([crop["labels"] for crop in drawn])) == set(range(200)), "no point is left out for good"
    assert len(choose_crop(scene, None, 200, random)["labels"]) == 200


def test_the_same_generator_chooses_the_same_crop():
    first, second = (choose_crop(numbered_scene(), 8.0, 9, np.random.default_rng(7))["labels"] for _ in range(2))
    assert first.tolist() == second.tolist()


WRONG_CROPS = {
    "no extent": (0, None, "`extent` must be one or three positive numbers; got 0"),
    "two extents": ((1, 2), None, r"got \(1, 2\)"),
    "a nan": ((1, 2, np.nan), None, "nan"),
    "no points": (1.0, 0, "`max_points` must be at least 1; got 0"),
}


@pytest.mark.parametrize(("extent", "max_points", "message"), WRONG_CROPS.values(), ids=WRONG_CROPS)
def test_a_crop_that_makes_no_sense_is_refused(extent, max_points, message):
    with pytest.raises(InvalidInputError, match=message):
        choose_crop(numbered_scene(), extent, max_points, np.random.default_rng(0))


def test_an_empty_scene_has_no_crop():
    with pytest.raises(InvalidInputError, match="without a point"):
        choose_crop(numbered_scene(0), 1.0, None, np.random.default_rng(0))


def test_batch_follows_from_its_number_and_the_seed(scene_sets):
    cropping = Cropping(extent=2.0, max_points=50)
    first, again, other = (SceneBatches(scene_sets[0], 3, seed, cropping) for seed in (0, 0, 1))
    for step in (5, 0, 2):
        for (a, x), (b, y), (c, _) in zip(first[step], again[step], other[step], strict=True):
            assert np.array_equal(a["points"], b["points"])
            assert np.array_equal(x, y)
            assert len(x) == len(a["points"]) <= 50
            assert not np.array_equal(a["points"], c["points"])


def test_batches_go_to_worker_processes(scenes_npz):
    train_set, _ = load_scenes(f"scenes:{scenes_npz}")
    batches = SceneBatches(train_set, 2, 0, Cropping(extent=2.0))
    copied = pickle.loads(pickle.dumps(batches))
    assert np.array_equal(copied[3][1][0]["points"], batches[3][1][0]["points"])


def test_a_part_of_a_batch_reads_its_own_scenes_alone():
    read = []

    def load(number):
        read.append(number)
        return make_scene(number)

    batches = SceneBatches(SceneSet(tuple("abcdef"), CLASSES, load), 6, 0, Cropping(extent=2.0))
    part = batches.draw(0, slice(2, 4))
    assert len(read) == len(set(read)) == 2
    for (cloud, labels), (whole, its_labels) in zip(part, batches[0][2:4], strict=True):
        assert np.array_equal(cloud["points"], whole["points"])
        assert np.array_equal(labels, its_labels)


def test_every_scene_comes_once_an_epoch_and_crops_are_boxes_of_it():
    def load(number):  # points that say where they are from
        numbers = np.stack([np.full(300, number), np.arange(300), np.zeros(300)], 1).astype(np.float32)
        return {**make_scene(number), "normals": numbers}

    seen = []
    batches = SceneBatches(SceneSet(tuple("abcd"), CLASSES, load), 2, 0, Cropping(extent=1.0), augmented=False)
    for step in range(6):
        for cloud, labels in batches[step]:
            points, (origin, *others) = cloud["points"], np.unique(cloud["normals"][:, 0]).astype(int).tolist()
            moved = load(origin)["points"][cloud["normals"][:, 1].astype(int)] - points
            assert others == []
            assert np.ptp(moved, axis=0).max() < 1e-5
            assert (np.ptp(points, axis=0) <= 1.0 + 1e-5).all()
            assert set(labels) <= {IGNORED, 0, 1, 2}
            seen.append(origin)
    assert all(sorted(seen[start : start + 4]) == [0, 1, 2, 3] for start in (0, 4, 8))


def test_turning_keeps_heights_distances_and_the_given_cloud():
    scene = make_scene(0)
    cloud = {**as_cloud(scene), "normals": np.tile(np.array([1, 0, 0], np.float32), (300, 1))}
    before = {name: values.copy() for name, values in cloud.items()}
    angles = []
    for seed in range(30):
        out = turn(cloud, Cropping(scale=0.1), np.random.default_rng(seed))
        ratio = np.linalg.norm(out["points"], axis=1) / np.linalg.norm(cloud["points"], axis=1)
        assert np.allclose(ratio, ratio[0], rtol=1e-4)
        assert 0.9 <= ratio[0] <= 1.1
        assert np.allclose(out["points"][:, 2], cloud["points"][:, 2] * ratio[0], atol=1e-5)
        assert np.allclose(np.linalg.norm(out["normals"], axis=1), 1, atol=1e-5)
        angles.append(np.arctan2(*out["normals"][0, 1::-1]))
    assert np.ptp(angles) > 4, "all around"
    assert all(np.array_equal(cloud[name], before[name]) for name in before)


def test_intensity_is_not_turned():
    cloud = {"points": np.ones((5, 4), np.float32)}
    assert (turn(cloud, Cropping(), np.random.default_rng(1))["points"][:, 3] == 1).all()


@pytest.mark.parametrize(("count", "size"), [(0, 2), (2, 0)])
def test_batches_of_nothing_are_refused(count, size):
    with pytest.raises(InvalidInputError, match=f"got {count} scenes and batch_size={size}"):
        SceneBatches(make_set(count), size, 0, Cropping())


def test_scenes_are_kept_in_memory_up_to_a_number_of_points(monkeypatch):
    monkeypatch.setattr(crops, "_KEPT", 700)
    read = []
    scenes = SceneSet(("a", "b", "c"), CLASSES, lambda number: (read.append(number), make_scene(number))[1])
    drawn = SceneBatches(scenes, 3, 0, Cropping())
    first, again = drawn[0], drawn[0]
    assert len(read) == 4, "two of 300 points are kept, the third is read again"
    assert all(np.array_equal(a["points"], b["points"]) for (a, _), (b, _) in zip(first, again, strict=True))


UTM = np.array([448_256.0, 5_411_840.0, 128.0])  # by which doubles move coordinates of 10 binary places exactly


def quantized(scene):
    return {**scene, "points": np.round(scene["points"] * 1024) / 1024}


def test_crops_of_a_scene_on_a_map_are_those_at_the_origin():
    def load(number, offset):
        scene = quantized(make_scene(number))
        return {**scene, "points": scene["points"] + offset, "intensity": scene["points"][:, :1].astype(np.float32)}

    sets = [SceneSet(tuple("abcd"), CLASSES, lambda number, offset=offset: load(number, offset)) for offset in (0, UTM)]
    near, far = (SceneBatches(scenes, 3, 0, Cropping(extent=2.0, max_points=100)) for scenes in sets)
    for step in range(4):
        for (a, x), (b, y) in zip(near[step], far[step], strict=True):
            assert a.keys() == b.keys() == {"points", "intensity"}
            assert b["points"].dtype == np.float32
            assert np.array_equal(a["points"], b["points"])
            assert np.array_equal(a["intensity"], b["intensity"])
            assert np.array_equal(x, y)


def test_millimetres_on_a_map_are_kept():
    points = UTM + np.array([[0, 0, 0], [0.001, 0.002, 0.003], [0.01, 0.02, 0.03]])
    assert np.allclose(np.diff(center({"points": points})["points"], axis=0), np.diff(points, axis=0), atol=1e-8)
