"""Labelled clouds: what a file must hold, what augmentation may do, and that no batch loses or repeats a cloud."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet, TrainingBatches, evaluation_batches, hold_out, load_npz
from i2p_zoo.data import augment as augment_cloud
from i2p_zoo.errors import NotFoundError
from i2p_zoo.inflation.settings import Settings

KICAD = Path(__file__).with_name("kicad-mini.npz")
KICAD_CLASSES = (
    "Capacitor_Axial Connector_Dsub Connector_JST Inductor_Radial LED_THT Package_DIP Package_SO Package_TO_SOT_THT "
    "PinHeader_Vertical Switch_DIP"
).split()


def make_clouds(count, points=5, classes=None):
    """Clouds whose labels are their numbers, unless told otherwise."""
    random = np.random.default_rng(3)
    labels = np.arange(count) % (classes or count)
    names = tuple(f"class {number}" for number in range(classes or count))
    return CloudSet(random.uniform(-0.5, 0.5, (count, points, 3)).astype(np.float32), labels.astype(np.int64), names)


def write_npz(path, **changes):
    """A good file of 6 clouds in 3 classes, with arrays changed, added, or left out where None."""
    arrays = {
        "points": np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float16),
        "label": np.array([0, 1, 2, 0, 1, 2], np.int16),
        "split": np.array([0, 1, 0, 0, 1, 0], np.uint8),
        "classes": np.array(["a", "b", "c"]),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def kicad():
    return load_npz(KICAD)


def test_kicad_mini_has_the_clouds_that_its_readme_counts(kicad):
    train, test = kicad
    assert (len(train), len(test)) == (400, 199)
    assert list(train.classes) == list(test.classes) == KICAD_CLASSES
    assert np.bincount(train.labels).tolist() == [40] * 10
    assert np.bincount(test.labels).tolist() == [20] * 4 + [19] + [20] * 5


def test_kicad_mini_lies_within_the_unit_sphere_up_to_half_precision(kicad):
    for clouds in kicad:
        norms = np.linalg.norm(clouds.points, axis=2).max(1)
        assert clouds.points.shape[1:] == (1024, 3)
        assert clouds.points.dtype == np.float32
        assert clouds.labels.dtype == np.int64
        assert norms.max() <= 1 + 1e-3
        assert norms.min() > 0.8, "each cloud is scaled by its own size"


def test_splits_keep_the_files_order_and_scale(tmp_path):
    points = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32)
    scale = np.array([10, 20, 30, 40, 50, 60], np.float32)
    train, test = load_npz(write_npz(tmp_path / "a.npz", points=points, scale=scale))
    assert train.labels.tolist() == [0, 2, 0, 2]
    assert test.labels.tolist() == [1, 1]
    assert train.classes == ("a", "b", "c")
    assert np.allclose(train.points, [points[0] / 10, points[2] / 30, points[3] / 40, points[5] / 60], rtol=1e-6)
    assert np.allclose(test.points, [points[1] / 20, points[4] / 50], rtol=1e-6)


def test_without_a_scale_the_farthest_point_of_each_cloud_lies_on_the_sphere(tmp_path):
    for clouds in load_npz(str(write_npz(tmp_path / "a.npz"))):
        assert np.allclose(np.linalg.norm(clouds.points, axis=2).max(1), 1, rtol=1e-6)


def test_a_cloud_of_zeros_stays_finite(tmp_path):
    train, _ = load_npz(write_npz(tmp_path / "a.npz", points=np.zeros((6, 4, 3))))
    assert np.array_equal(train.points, np.zeros((4, 4, 3)))


MALFORMED = {
    "no points": ({"points": None}, r"lacks.*'points'"),
    "no label": ({"label": None}, r"lacks.*'label'"),
    "no split": ({"split": None}, r"lacks.*'split'"),
    "no classes": ({"classes": None}, r"lacks.*'classes'"),
    "nothing that is needed": (dict.fromkeys(("points", "label", "split", "classes")) | {"other": np.ones(2)}, "lacks.*other"),
    "flat points": ({"points": np.zeros((6, 12))}, r"\(6, 12\)"),
    "points of four columns": ({"points": np.zeros((6, 4, 4))}, r"\(6, 4, 4\)"),
    "clouds without a point": ({"points": np.zeros((6, 0, 3))}, r"\(6, 0, 3\)"),
    "points of text": ({"points": np.full((6, 4, 3), "a")}, "points"),
    "too few labels": ({"label": np.zeros(5, int)}, r"\(5,\)"),
    "labels in a column": ({"label": np.zeros((6, 1), int)}, r"\(6, 1\)"),
    "fractional labels": ({"label": np.full(6, 0.5)}, "label"),
    "too long a split": ({"split": np.zeros(7, int)}, r"\(7,\)"),
    "a negative label": ({"label": np.array([0, 1, 2, -1, 1, 2])}, r"-1 to 2 for 3 classes"),
    "a label beyond the classes": ({"label": np.array([0, 1, 3, 0, 1, 2])}, r"0 to 3 for 3 classes"),
    "one name for all classes": ({"classes": np.array("a")}, "classes"),
    "too few scales": ({"scale": np.ones(5)}, "scale"),
    "a scale of zero": ({"scale": np.zeros(6)}, "scale"),
    "a third split": ({"split": np.array([0, 0, 1, 1, 2, 2])}, "split must be 0 for train or 1 for test"),
    "colours of two bytes": ({"colors": np.zeros((6, 4, 3), np.int16)}, "colors must be uint8; found int16"),
    "normals of two bytes": ({"normals": np.zeros((6, 4, 3), np.int16)}, "normals must be int8 or floats"),
    "an infinite scale": ({"scale": np.full(6, np.inf)}, "scale must be positive and finite; found inf"),
    "a scale beyond float32": ({"scale": np.full(6, 1e39)}, "scale must be positive and finite"),
    "a scale of text": ({"scale": np.full(6, "a")}, "scale must be floats or integers"),
    "a scale that is no number": ({"scale": np.full(6, np.nan)}, "scale"),
}


@pytest.mark.parametrize(
    ("rows", "labels"), [([True, False, True, False], [0, 2]), ([3, 1], [3, 1]), ([], []), ([2, 2], [2, 2])]
)
def test_a_subset_is_given_by_numbers_or_a_mask(rows, labels):
    assert make_clouds(4).subset(rows).labels.tolist() == labels
    assert make_clouds(4).subset(np.array(rows)).labels.tolist() == labels


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([True, False], r"integers or a mask \(4,\); got bool \(2,\)"),
        ([0.0, 1.0], r"got float64 \(2,\)"),
        ([[0, 1]], r"got int64 \(1, 2\)"),
        ([-1, 2], "Rows -1 to 2 are wanted of a set of 4"),
        ([0, 4], "Rows 0 to 4"),
    ],
)
def test_a_subset_of_what_is_not_there_is_refused(rows, message):
    with pytest.raises(InvalidInputError, match=message):
        make_clouds(4).subset(rows)


@pytest.mark.parametrize("classes", [(), ("chair", "chair")])
def test_classes_need_different_names(classes):
    with pytest.raises(InvalidInputError, match="at least one class and different names"):
        CloudSet(np.zeros((0, 5, 3), np.float32), np.zeros(0, np.int64), classes)


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_arrays_that_do_not_fit_are_refused_by_file_and_fault(tmp_path, changes, message):
    with pytest.raises(InvalidInputError, match=rf"(?s)bad\.npz.*{message}"):
        load_npz(write_npz(tmp_path / "bad.npz", **changes))


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["points", "label", "classes", "scale"])
def test_pickled_arrays_are_refused_and_never_run(tmp_path, name):
    bomb = np.array([Bomb(tmp_path / "exploded")] * 6, dtype=object)
    with pytest.raises(InvalidInputError, match=r"bad\.npz"):
        load_npz(write_npz(tmp_path / "bad.npz", **{name: bomb}))
    assert not (tmp_path / "exploded").exists()


def damage(path, kind):
    whole = write_npz(path).read_bytes()
    if kind == "a bare array":
        with path.open("wb") as file:
            np.save(file, np.zeros((6, 4, 3)))
        return
    middle = whole.index(b"NUMPY") + 150  # in the values of the first array
    content = {
        "text": b"x,y,z\n1,2,3\n",
        "empty": b"",
        "a pickle": pickle.dumps({"points": [1.0]}),
        "cut in the middle": whole[: len(whole) // 2],
        "cut after two bytes": whole[:2],
        "cut before its end": whole[:-10],
        "a changed byte": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "text",
        "empty",
        "a pickle",
        "a bare array",
        "cut in the middle",
        "cut after two bytes",
        "cut before its end",
        "a changed byte",
    ],
)
def test_a_file_that_is_no_whole_npz_is_refused(tmp_path, kind):
    damage(tmp_path / "bad.npz", kind)
    with pytest.raises(InvalidInputError, match=r"bad\.npz cannot be read"):
        load_npz(tmp_path / "bad.npz")
    gc.collect()  # a file left open warns now, in this test


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(NotFoundError, match="no such file") as caught:
        load_npz(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


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
    points = make_clouds(1).points[0]
    before = points.copy()
    for seed in range(2000):
        out = augment(points, np.random.default_rng(seed))
        assert not np.shares_memory(out, points), f"seed {seed} returns the stored cloud"
        assert out.dtype == np.float32
    assert np.array_equal(points, before)


def test_augmentation_is_reproducible_by_seed():
    points = make_clouds(1).points[0]
    first, again, other = (augment(points, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


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


def test_a_group_of_several_classes_stays_on_one_side():
    labels, groups = np.arange(24) % 2, np.arange(24) // 4
    clouds = CloudSet(np.zeros((24, 1, 3), np.float32), labels, ("a", "b"), groups=groups)
    for seed in range(5):
        kept, held = hold_out(clouds, 0.25, seed)
        assert not set(kept.groups) & set(held.groups)
        assert len(kept) + len(held) == 24
        assert set(kept.labels) == set(held.labels) == {0, 1}
    together = CloudSet(np.zeros((4, 1, 3), np.float32), np.array([0, 0, 1, 1]), ("a", "b"), groups=np.array([0, 1, 1, 1]))
    with pytest.raises(InvalidInputError, match="'b'"):
        hold_out(together, 0.5)


def test_fingerprint_is_that_of_everything_a_run_reads():
    rgb = np.zeros((2, 5, 3), np.uint8)
    clouds = CloudSet(np.zeros((2, 5, 3), np.float32), np.array([0, 1]), ("a", "b"), rgb=rgb)
    other = np.zeros((2, 5, 3), np.float32)
    other[1, 4, 2] = 1
    changed = [{"points": other}, {"labels": np.array([1, 0])}, {"classes": ("b", "a")}, {"rgb": rgb + np.uint8(1)}]
    found = {dataclasses.replace(clouds, **changes).fingerprint() for changes in ({}, *changed)}
    assert len(found) == 5
    assert dataclasses.replace(clouds).fingerprint() in found
