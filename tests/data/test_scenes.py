"""Sets of scenes: what each is checked for, and what is held out of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import IGNORED, SceneSet, check_scenes, hold_out_scenes, select_features

RANDOM = np.random.default_rng(0)


def make_scene(count=200, columns=4, **changes):
    scene = {
        "points": RANDOM.uniform(-5, 5, (count, columns)).astype(np.float32),
        "labels": RANDOM.integers(-1, 3, count),
        "rgb": RANDOM.integers(0, 256, (count, 3), dtype=np.uint8),
        "normals": RANDOM.normal(size=(count, 3)).astype(np.float32),
    }
    return {name: values for name, values in {**scene, **changes}.items() if values is not None}


SCENES = [make_scene(5 + number) for number in range(4)]


def load_fourth(number):
    return SCENES[number]


def make_set(load=load_fourth):
    return SceneSet(("hall", "lobby", "office", "stairs"), ("floor", "wall", "door"), load)


def test_a_scene_is_loaded_when_asked_and_not_before():
    asked = []
    scenes = make_set(lambda number: asked.append(number) or SCENES[number]).subset([3, 1]).subset(np.array([1]))
    assert (len(scenes), scenes.names, scenes.classes, asked) == (1, ("lobby",), ("floor", "wall", "door"), [])
    assert scenes.scene(0) is SCENES[1]
    assert asked == [1]


def test_a_subset_may_be_empty_or_repeat():
    assert len(make_set().subset([])) == 0
    assert make_set().subset([2, 2]).scene(1) is SCENES[2]


def test_a_subset_may_be_a_mask_of_every_scene():
    assert make_set().subset([False, True, False, True]).names == ("lobby", "stairs")
    with pytest.raises(InvalidInputError, match=r"integers or a mask \(4,\); got bool \(2,\)"):
        make_set().subset([False, True])


def test_sets_and_subsets_can_go_to_other_processes():
    copy = pickle.loads(pickle.dumps(make_set().subset([2])))
    assert copy.names == ("office",)
    assert np.array_equal(copy.scene(0)["points"], SCENES[2]["points"])


@pytest.mark.parametrize("number", [-1, 4])
def test_a_number_beyond_the_set_is_refused(number):
    with pytest.raises(InvalidInputError, match=rf"no scene {number}; the set has those from 0 to 3"):
        make_set().scene(number)
    with pytest.raises(InvalidInputError, match=rf"{number}.* of a set of 4"):
        make_set().subset([number])


@pytest.mark.parametrize("classes", [(), ("wall", "wall")])
def test_classes_need_different_names(classes):
    with pytest.raises(InvalidInputError, match="at least one class and different names"):
        SceneSet(("hall",), classes, load_fourth)


def with_value(array, value):
    changed = array.copy()
    changed[3, 1] = value
    return changed


POINTS = RANDOM.normal(size=(9, 3)).astype(np.float32)
LABELS = np.zeros(9, np.int64)
MALFORMED = {
    "no points": ({"points": None}, r"`points` and `labels`; it has labels"),
    "no labels": ({"labels": None}, "`points` and `labels`"),
    "two columns": ({"points": POINTS[:, :2]}, r"\(N, 3\) or \(N, 4\).*float32 \(9, 2\)"),
    "five columns": ({"points": np.zeros((9, 5), np.float32)}, r"\(9, 5\)"),
    "half precision": ({"points": POINTS.astype(np.float16)}, "points must be float32 or float64.*got float16"),
    "flat points": ({"points": np.zeros(9, np.float32)}, r"got float32 \(9,\)"),
    "no point": ({"points": POINTS[:0], "labels": LABELS[:0]}, r"at least one; got float32 \(0, 3\)"),
    "fewer labels": ({"labels": LABELS[:8]}, r"labels must be int64 \(9,\); got int64 \(8,\)"),
    "short labels": ({"labels": LABELS.astype(np.int32)}, "labels must be int64.*int32"),
    "fewer colours": ({"rgb": np.zeros((8, 3), np.uint8)}, r"rgb must be uint8 \(9, 3\); got uint8 \(8, 3\)"),
    "fractions": ({"rgb": np.zeros((9, 3), np.float32)}, "rgb must be uint8.*float32"),
    "fewer normals": ({"normals": POINTS[:8]}, r"normals must be float32 \(9, 3\)"),
    "nan": ({"points": with_value(POINTS, np.nan)}, "its points have values that are NaN"),
    "infinite": ({"normals": with_value(POINTS, np.inf)}, "its normals have values that are NaN or infinite"),
    "a flat intensity": ({"intensity": np.zeros(9, np.float32)}, r"intensity must be float32 \(9, 1\); got float32 \(9,\)"),
    "a field of doubles": ({"field:time": np.zeros((9, 1))}, r"field:time must be float32 \(9, 1\); got float64"),
    "a label beyond": ({"labels": LABELS + 3}, "from 3 to 3; expected -1, for none, to 2"),
    "a label below": ({"labels": LABELS - 2}, "from -2 to -2"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_scene_is_refused_by_its_name(changes, message):
    whole = {"points": POINTS, "labels": LABELS, "rgb": None, "normals": None}
    scenes = make_set(lambda number: make_scene(9, **{**whole, **changes}))
    with pytest.raises(InvalidInputError, match=rf"^Scene 'office'.*{message}"):
        scenes.scene(2)


def test_ignored_is_no_class():
    assert IGNORED == -1


@pytest.mark.parametrize(("count", "fraction", "held"), [(4, 0.25, 1), (45, 0.2, 9), (2, 0.01, 1), (10, 0.9, 9)])
def test_held_out_scenes_are_those_that_are_not_trained_on(count, fraction, held):
    scenes = SceneSet(tuple(map(str, range(count))), ("floor",), lambda number: {})
    kept, judged = hold_out_scenes(scenes, fraction, seed=3)
    assert len(judged.names) == held
    assert sorted({*kept.names, *judged.names}) == sorted(scenes.names)
    assert len(kept.names) + held == count
    assert hold_out_scenes(scenes, fraction, seed=3)[1].names == judged.names
    assert count < 10 or hold_out_scenes(scenes, fraction, seed=4)[1].names != judged.names


GROUPS = [
    ("aabbccddee", 0.1, 2),
    ("aabbccddee", 0.5, 4),
    ("abcddddddd", 0.1, 1),
    ("abcddddddd", 0.3, 3),
    ("abacbaddba", 0.3, 3),
    ("aaabbbcccc", 0.01, 3),
    ("abbbbbbbbb", 0.5, 1),
]


@pytest.mark.parametrize(("sizes", "fraction", "held"), [((1, 9), 0.8, 9), ((1, 1, 1, 7), 0.6, 7), ((1, 2), 0.5, 2)])
def test_one_group_is_held_out_where_it_comes_nearest(sizes, fraction, held):
    groups = tuple(str(number) for number, size in enumerate(sizes) for _ in range(size))
    scenes = SceneSet(tuple(map(str, range(len(groups)))), ("floor",), lambda number: {}, groups)
    assert {len(hold_out_scenes(scenes, fraction, seed)[1]) for seed in range(20)} == {held}


@pytest.mark.parametrize(("groups", "fraction", "count"), GROUPS)
def test_no_group_is_divided_and_about_the_fraction_held_out(groups, fraction, count):
    scenes = SceneSet(tuple(map(str, range(10))), ("floor",), lambda number: {}, tuple(groups))
    for seed in range(10):
        kept, held = hold_out_scenes(scenes, fraction, seed)
        assert sorted([*kept.names, *held.names]) == list(scenes.names)
        assert not set(kept.groups) & set(held.groups)
        assert [groups[int(name)] for name in held.names] == list(held.groups)
        assert len(held) == count


def test_scenes_of_one_group_and_groups_of_other_scenes_are_refused():
    with pytest.raises(InvalidInputError, match=r"0\.5 of 4 scenes in 1 group cannot be held out"):
        hold_out_scenes(SceneSet(tuple("abcd"), ("floor",), lambda number: {}, ("room",) * 4), 0.5)
    with pytest.raises(InvalidInputError, match="4 names and 3 groups"):
        SceneSet(tuple("abcd"), ("floor",), lambda number: {}, ("room",) * 3)


@pytest.mark.parametrize(("count", "fraction"), [(4, 0.0), (4, 1.0), (4, float("nan")), (1, 0.5), (4, 0.9)])
def test_scenes_that_cannot_be_divided_are_refused(count, fraction):
    with pytest.raises(InvalidInputError, match=r"cannot be held out"):
        hold_out_scenes(SceneSet(tuple(map(str, range(count))), ("floor",), lambda number: {}), fraction)


def test_a_set_gives_the_features_that_are_read_and_no_others():
    time = np.arange(5, dtype=np.float32)[:, None]
    whole = {**make_scene(5), "intensity": time / 5, "field:time": time, "field:broken": time * np.nan}
    scenes = make_set(lambda number: whole)
    assert scenes.scene(0).keys() == whole.keys()
    chosen = scenes.reading("field:time, xyz,extra, ones").subset([1]).scene(0)
    assert chosen.keys() == {"points", "labels", "field:time"}
    assert chosen["points"].shape == (5, 4)
    with pytest.raises(InvalidInputError, match="Scene 'hall': its field:broken have values that are NaN"):
        scenes.reading("xyz,field:broken").scene(0)
    with pytest.raises(InvalidInputError, match="must be some of xyz"):
        scenes.reading("colour")


MISSING = [
    ("xyz,rgb", "no rgb, which the features xyz,rgb ask for; it has xyz, normals, field:time."),
    ("intensity,field:class,normals", "no intensity, field:class, which .* it has xyz, normals, field:time."),
    ("extra", "no extra"),
]


@pytest.mark.parametrize(("features", "message"), MISSING)
def test_a_feature_that_is_missing_is_told_with_those_that_there_are(features, message):
    scene = {"points": POINTS, "labels": LABELS, "normals": POINTS, "field:time": np.zeros((9, 1), np.float32)}
    with pytest.raises(InvalidInputError, match=f"^Scene 'lobby' has {message}"):
        make_set(lambda number: scene).reading(features).scene(1)
    with pytest.raises(InvalidInputError, match=rf"^a\.las has {message}"):
        select_features("a.las", scene, features.split(","))


@pytest.mark.parametrize(("varied", "read"), [(False, [0]), (True, [0, 1, 2, 3])])
def test_scenes_that_may_differ_are_all_looked_at_before_a_training(varied, read):
    asked = []
    scenes = SceneSet(tuple("abcd"), ("floor", "wall", "door"), lambda n: asked.append(n) or SCENES[n], varied=varied)
    check_scenes(scenes)
    assert asked == read
    with pytest.raises(InvalidInputError, match="Scene 'a' has no intensity"):
        check_scenes(scenes.reading("intensity"))


def test_codes_are_as_many_as_classes():
    with pytest.raises(InvalidInputError, match="3 classes and 2 codes"):
        SceneSet(("hall",), ("floor", "wall", "door"), load_fourth, codes=(2, 6))


def test_a_set_is_printed_in_one_line():
    scenes = SceneSet(tuple(f"Area_1/room_{number}" for number in range(40)), ("floor", "wall"), lambda number: {})
    assert repr(scenes) == (
        "SceneSet(40 scenes: Area_1/room_0, Area_1/room_1, Area_1/room_2 and 37 more; 2 classes: floor and wall)"
    )
    assert repr(scenes.subset([])) == "SceneSet(0 scenes; 2 classes: floor and wall)"
