"""Sets of labelled clouds: their parts, their groups and their fingerprint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet, choose_shots, hold_out
from i2p_zoo.data.clouds import divide_shots, join_clouds

FOUR = CloudSet(np.zeros((4, 5, 3), np.float32), np.arange(4), tuple("abcd"))


@pytest.mark.parametrize(
    ("rows", "labels"), [([True, False, True, False], [0, 2]), ([3, 1], [3, 1]), ([], []), ([2, 2], [2, 2])]
)
def test_a_subset_is_given_by_numbers_or_a_mask(rows, labels):
    assert FOUR.subset(rows).labels.tolist() == labels
    assert FOUR.subset(np.array(rows)).labels.tolist() == labels


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([True, False], r"integers or a mask \(4,\); got bool \(2,\)"),
        ([0.0, 1.0], r"got float64 \(2,\)"),
        ([[0, 1]], r"got int64 \(1, 2\)"),
        ([-1, 2], "Rows -1 to 2 are asked for of a set of 4"),
        ([0, 4], "Rows 0 to 4"),
    ],
)
def test_a_subset_of_what_is_not_there_is_refused(rows, message):
    with pytest.raises(InvalidInputError, match=message):
        FOUR.subset(rows)


@pytest.mark.parametrize("name", ["points", "normals", "rgb", "labels", "groups"])
def test_masked_values_are_refused_by_their_array(name):
    arrays = {
        "points": np.zeros((2, 5, 3), np.float32),
        "labels": np.array([0, 1]),
        "normals": np.ones((2, 5, 3), np.float32),
        "rgb": np.zeros((2, 5, 3), np.uint8),
        "groups": np.array([0, 1]),
    }
    arrays[name] = np.ma.array(arrays[name], mask=np.zeros(arrays[name].shape, bool))
    CloudSet(classes=("a", "b"), **arrays)
    arrays[name][1] = np.ma.masked
    with pytest.raises(InvalidInputError, match=f"`{name}` of a cloud set has [0-9]+ masked values"):
        CloudSet(classes=("a", "b"), **arrays)
    if name in ("points", "normals", "rgb"):
        with pytest.raises(InvalidInputError, match=f"`{name}` of a cloud set has 15 masked values"):
            CloudSet(classes=("a", "b"), **{**arrays, name: list(arrays[name])})


def test_a_normalisation_is_one_that_there_is():
    assert FOUR.normalization == ""
    with pytest.raises(InvalidInputError, match="`normalization` must be 'unit_sphere' or ''; got 'centred'"):
        dataclasses.replace(FOUR, normalization="centred")
    assert dataclasses.replace(FOUR, normalization="unit_sphere").subset([0]).normalization == "unit_sphere"


@pytest.mark.parametrize("classes", [(), ("chair", "chair")])
def test_classes_need_different_names(classes):
    with pytest.raises(InvalidInputError, match="at least one class and different names"):
        CloudSet(np.zeros((0, 5, 3), np.float32), np.zeros(0, np.int64), classes)


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


def set_of(sizes, **features):
    points = [np.ones((size, 3), np.float32) for size in sizes]
    return CloudSet(points, np.zeros(len(sizes), np.int64), ("chair", "table"), **features)


LINES = {
    "one cloud": (set_of([5]), "CloudSet(1 cloud of 5 points; 2 classes: chair and table)"),
    "clouds of several sizes": (set_of([1, 2048]), "CloudSet(2 clouds of 1 to 2,048 points; 2 classes: chair and table)"),
    "features": (set_of([1], normals=[np.ones((1, 3))]), "CloudSet(1 cloud of 1 point, normals; 2 classes: chair and table)"),
    "nothing": (set_of([5]).subset([]), "CloudSet(0 clouds of 0 points; 2 classes: chair and table)"),
}


@pytest.mark.parametrize(("clouds", "line"), LINES.values(), ids=LINES)
def test_a_set_is_printed_in_one_line(clouds, line):
    assert repr(clouds) == str(clouds) == line


def test_a_large_set_of_many_classes_is_still_one_line():
    names = tuple(f"class {number}" for number in range(500))
    assert len(repr(CloudSet(np.ones((600, 9, 3), np.float32), np.zeros(600, np.int64), names))) < 250


FEATURES = {
    "both there": ({"normals": [np.ones((2, 3))], "rgb": [np.ones((2, 3))]}, "xyz, normals, rgb, ones", None),
    "no normals": ({}, "xyz,normals", r"^The clouds have no normals, which the features xyz,normals need\.$"),
    "one without": ({"lacking": {"rgb": "b/1.ply has none."}}, "rgb", r"^The clouds have no rgb, .* need\. b/1\.ply has none"),
    "columns": ({}, "extra", "The clouds have no extra"),
}


@pytest.mark.parametrize(("arrays", "features", "message"), FEATURES.values(), ids=FEATURES)
def test_features_that_are_not_there_are_told_in_the_words_of_the_set(arrays, features, message):
    clouds = set_of([2], **arrays)
    for part in (clouds, clouds.subset([0, 0])):
        if message is None:
            part.require_features(features)
        else:
            with pytest.raises(InvalidInputError, match=message):
                part.require_features(features)


def test_shots_and_what_is_left_are_all_clouds():
    clouds = CloudSet(np.arange(24, dtype=np.float32).reshape(8, 1, 3), np.arange(8) % 2, ("a", "b"))
    drawn, left = divide_shots(clouds, 1, seed=3)
    assert drawn.fingerprint() == choose_shots(clouds, 1, seed=3).fingerprint()
    assert sorted([*drawn.points[:, 0, 0], *left.points[:, 0, 0]]) == list(range(0, 24, 3))
    assert sorted(left.points[:, 0, 0].tolist()) == left.points[:, 0, 0].tolist()


def test_joined_sets_have_the_clouds_of_both_and_the_features_that_both_have():
    first = CloudSet(np.zeros((2, 4, 3), np.float32), np.array([0, 1]), ("a", "b"), normals=np.ones((2, 4, 3), np.float32))
    second = CloudSet([np.ones((5, 3), np.float32)], np.array([[0.2, 0.8]], np.float32), ("a", "b"))
    joined = join_clouds(first, second)
    assert [len(points) for points in joined.points] == [4, 4, 5]
    assert joined.labels.tolist() == [0, 1, 1]
    assert joined.normals is None
    assert join_clouds(first, first).normals[3].tolist() == [[1, 1, 1]] * 4


@pytest.mark.parametrize(
    ("changes", "words"), [({"classes": ("a", "c")}, "same classes"), ({"normalization": "unit_sphere"}, "same normalization")]
)
def test_sets_of_another_sort_are_not_joined(changes, words):
    clouds = CloudSet(np.zeros((2, 4, 3), np.float32), np.array([0, 1]), ("a", "b"))
    with pytest.raises(InvalidInputError, match=words):
        join_clouds(clouds, dataclasses.replace(clouds, **changes))
