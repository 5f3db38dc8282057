"""Sets of scenes: what each is checked for, and that crops and blocks take the points that they say."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import (
    IGNORED,
    SceneSet,
    choose_crop,
    crop_box,
    crop_sphere,
    hold_out_scenes,
    overlapping_blocks,
)

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
    "no points": ({"points": None}, r"`points` and `labels`; it has \['labels'"),
    "no labels": ({"labels": None}, "`points` and `labels`"),
    "two columns": ({"points": POINTS[:, :2]}, r"\(N, 3\) or \(N, 4\).*float32 \(9, 2\)"),
    "five columns": ({"points": np.zeros((9, 5), np.float32)}, r"\(9, 5\)"),
    "doubles": ({"points": POINTS.astype(np.float64)}, "points must be float32.*got float64"),
    "flat points": ({"points": np.zeros(9, np.float32)}, r"got float32 \(9,\)"),
    "no point": ({"points": POINTS[:0], "labels": LABELS[:0]}, r"at least one; got float32 \(0, 3\)"),
    "fewer labels": ({"labels": LABELS[:8]}, r"labels must be int64 \(9,\); got int64 \(8,\)"),
    "short labels": ({"labels": LABELS.astype(np.int32)}, "labels must be int64.*int32"),
    "fewer colours": ({"rgb": np.zeros((8, 3), np.uint8)}, r"rgb must be uint8 \(9, 3\); got uint8 \(8, 3\)"),
    "fractions": ({"rgb": np.zeros((9, 3), np.float32)}, "rgb must be uint8.*float32"),
    "fewer normals": ({"normals": POINTS[:8]}, r"normals must be float32 \(9, 3\)"),
    "nan": ({"points": with_value(POINTS, np.nan)}, "its points have values that are NaN"),
    "infinite": ({"normals": with_value(POINTS, np.inf)}, "its normals have values that are NaN or infinite"),
    "a label beyond": ({"labels": LABELS + 3}, "from 3 to 3; expected -1, for none, to 2"),
    "a label below": ({"labels": LABELS - 2}, "from -2 to -2"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_scene_is_refused_by_its_name(changes, message):
    whole = {"points": POINTS, "labels": LABELS, "rgb": None, "normals": None}
    scenes = make_set(lambda number: make_scene(9, **{**whole, **changes}))
    with pytest.raises(InvalidInputError, match=rf"^Scene 'office'.*{message}"):
        scenes.scene(2)


# Crops.


def assert_taken(crop, scene, rows):
    assert crop.keys() == scene.keys()
    assert rows.dtype == np.int64
    for name, values in crop.items():
        assert np.array_equal(values, scene[name][rows])
        assert values.dtype == scene[name].dtype
        assert not np.shares_memory(values, scene[name])


@pytest.mark.parametrize("extent", [3, (4, 2, 6), (2, 2, np.inf)])
def test_a_box_has_the_points_within_half_its_extent(extent):
    scene, center = make_scene(), (1, -1, 0.5)
    crop, rows = crop_box(scene, center, extent)
    edges = np.broadcast_to(extent, 3)
    inside = [all(abs(p - c) <= e / 2 for p, c, e in zip(point, center, edges, strict=False)) for point in scene["points"]]
    assert rows.tolist() == np.flatnonzero(inside).tolist()
    assert 0 < len(rows) < 200
    assert_taken(crop, scene, rows)


def test_a_sphere_has_the_points_within_its_radius_whatever_their_intensity():
    scene = make_scene()
    scene["points"][:, 3] = 1000
    crop, rows = crop_sphere(scene, (1, -1, 0.5), 3)
    distances = np.linalg.norm(scene["points"][:, :3] - (1, -1, 0.5), axis=1)
    assert rows.tolist() == np.flatnonzero(distances <= 3).tolist()
    assert 0 < len(rows) < 200
    assert_taken(crop, scene, rows)


def test_a_crop_about_nothing_is_empty():
    for crop, rows in (crop_box(make_scene(), (99, 0, 0), 1), crop_sphere(make_scene(), (99, 0, 0), 1)):
        assert len(rows) == len(crop["points"]) == len(crop["labels"]) == 0


@pytest.mark.parametrize("shape", [{"extent": (2, 2, np.inf)}, {"radius": 2.0}, {"extent": 1e-12}, {"radius": 1e-12}])
def test_a_chosen_crop_is_about_a_point_of_the_scene(shape):
    scene, random = make_scene(), np.random.default_rng(0)
    centers = set()
    for _ in range(20):
        crop, rows = choose_crop(scene, **shape, random=random)
        assert_taken(crop, scene, rows)
        about = [
            crop_box(scene, p, shape["extent"]) if "extent" in shape else crop_sphere(scene, p, **shape)
            for p in scene["points"][rows, :3]
        ]
        matching = [row for row, (_, found) in zip(rows, about, strict=True) if np.array_equal(found, rows)]
        assert matching, "one of its points is the centre"
        centers.update(matching[:1])
    assert len(centers) > 10, "the centre is drawn anew each time"


def test_a_crop_of_too_many_points_is_drawn_down_to_different_ones():
    scene, random = make_scene(), np.random.default_rng(0)
    drawn = [choose_crop(scene, extent=np.inf, max_points=50, random=random) for _ in range(30)]
    for crop, rows in drawn:
        assert len(rows) == 50
        assert (np.diff(rows) > 0).all(), "no row twice, in the scene's order"
        assert_taken(crop, scene, rows)
    assert set(np.concatenate([rows for _, rows in drawn])) == set(range(200)), "no point is left out for good"
    assert len(choose_crop(scene, extent=np.inf, max_points=200, random=random)[1]) == 200


def test_the_same_generator_chooses_the_same_crop():
    scene = make_scene()
    first, second = (choose_crop(scene, radius=4.0, max_points=9, random=np.random.default_rng(7))[1] for _ in range(2))
    assert first.tolist() == second.tolist()


WRONG_CROPS = {
    "nothing": ({}, "either `extent` or `radius`; got None and None"),
    "both": ({"extent": 2, "radius": 1.0}, "got 2 and 1.0"),
    "no extent": ({"extent": 0}, "`extent` must be one or three positive numbers; got 0"),
    "two extents": ({"extent": (1, 2)}, r"got \(1, 2\)"),
    "a nan": ({"extent": (1, 2, np.nan)}, "nan"),
    "no radius": ({"radius": 0.0}, "`radius` must be positive; got 0.0"),
    "a negative radius": ({"radius": -1.0}, "got -1.0"),
    "no points": ({"radius": 1.0, "max_points": 0}, "`max_points` must be at least 1; got 0"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_CROPS.values(), ids=WRONG_CROPS)
def test_a_crop_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        choose_crop(make_scene(), **options, random=np.random.default_rng(0))


def test_an_empty_scene_has_no_crop():
    with pytest.raises(InvalidInputError, match="without a point"):
        choose_crop(make_scene(0), radius=1.0, random=np.random.default_rng(0))


# Blocks.


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    extent=st.floats(0.3, 30) | st.tuples(st.floats(0.3, 30), st.floats(0.3, 30), st.just(np.inf)),
    overlap=st.floats(0, 0.8),
    scale=st.sampled_from([0, 1e-3, 1, 5]),
    grid=st.booleans(),
)
def test_blocks_cover_every_point_and_are_no_longer_than_their_extent(seed, count, extent, overlap, scale, grid):
    points = np.random.default_rng(seed).uniform(-scale, scale, (count, 4)).astype(np.float32)
    points = np.round(points) if grid else points
    blocks = list(overlapping_blocks(points, extent, overlap))
    assert set(np.concatenate(blocks)) == set(range(count))
    for rows in blocks:
        assert len(rows)
        assert (np.diff(rows) > 0).all()
        assert (np.ptp(points[rows, :3], axis=0) <= np.multiply(extent, 1 + 1e-5)).all()


def test_neighbouring_blocks_share_at_least_the_overlap():
    line = np.zeros((1001, 3))
    line[:, 0] = np.linspace(0, 10, 1001)
    blocks = list(overlapping_blocks(line, 3, 0.4))
    for first, second in itertools.pairwise(blocks):
        shared = line[np.intersect1d(first, second), 0]
        assert np.ptp(shared) >= 1.2 - 0.011
    assert len(blocks) == 1 + np.ceil(7 / 1.8)
    assert [len(rows) for rows in blocks] == pytest.approx([301] * 5, abs=1), "the last is as long as the first"


def test_rounding_leaves_no_point_out():
    highest, edge = 0.07, 2.3
    assert (highest - edge) + edge < highest, "where the last block begins and how long it is do not add up"
    blocks = list(overlapping_blocks(np.array([[-5.0] * 3, [highest] * 3]), edge, 0))
    assert [rows.tolist() for rows in blocks] == [[0], [1]]


def test_points_of_one_place_are_one_block():
    assert [rows.tolist() for rows in overlapping_blocks(np.ones((4, 3)), 1)] == [[0, 1, 2, 3]]


WRONG_BLOCKS = {
    "no points": ((np.zeros((0, 3)), 1, 0.5), r"at least one; got \(0, 3\)"),
    "two columns": ((np.zeros((5, 2)), 1, 0.5), r"\(5, 2\)"),
    "no extent": ((POINTS, 0, 0.5), "`extent`.*got 0"),
    "whole overlap": ((POINTS, 1, 1), "`overlap` must be at least 0 and less than 1; got 1"),
    "a negative one": ((POINTS, 1, -0.1), "got -0.1"),
    "a point far out": ((np.array([[0.0] * 3, [4e9, 0, 0]]), 4, 0.5), r"0 to 4e\+09 take 2e\+09 blocks of 4.*far out"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_BLOCKS.values(), ids=WRONG_BLOCKS)
def test_blocks_that_make_no_sense_are_refused_at_once(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        overlapping_blocks(*arguments)


def test_a_point_far_out_costs_no_time_for_the_empty_blocks_between():
    points = np.vstack([np.random.default_rng(0).uniform(0, 100, (2000, 3)), np.full((1, 3), 1e6)])
    near = [rows.tolist() for rows in overlapping_blocks(points[:-1], 4, 0.5)]
    found = [rows.tolist() for rows in overlapping_blocks(points, 4, 0.5)]
    assert found[-1] == [2000]
    assert {row for rows in found for row in rows} == set(range(2001))
    assert len(near) < 2 * len(found)


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
    with pytest.raises(InvalidInputError, match=r"0\.5 of 4 scenes in 1 groups cannot be held out"):
        hold_out_scenes(SceneSet(tuple("abcd"), ("floor",), lambda number: {}, ("room",) * 4), 0.5)
    with pytest.raises(InvalidInputError, match="4 names and 3 groups"):
        SceneSet(tuple("abcd"), ("floor",), lambda number: {}, ("room",) * 3)


@pytest.mark.parametrize(("count", "fraction"), [(4, 0.0), (4, 1.0), (4, float("nan")), (1, 0.5), (4, 0.9)])
def test_scenes_that_cannot_be_divided_are_refused(count, fraction):
    with pytest.raises(InvalidInputError, match=r"cannot be held out"):
        hold_out_scenes(SceneSet(tuple(map(str, range(count))), ("floor",), lambda number: {}), fraction)


@pytest.mark.parametrize("extent", [np.inf, 1.0])
def test_blocks_of_points_that_are_not_finite_are_refused(extent):
    points = np.array([[0, 0, 0], [1, np.nan, 0]])
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        overlapping_blocks(points, extent)
