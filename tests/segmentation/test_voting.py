"""Blocks that cover every point, and votes over them that are the network's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError
from i2p_zoo.errors import DivergedError
from i2p_zoo.segmentation.crops import as_cloud, center
from i2p_zoo.segmentation.voting import overlapping_blocks, segment
from tests.segmentation.conftest import make_scene, make_unet

POINTS = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


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


@pytest.mark.parametrize("full", [1.0, 255.0])
def test_a_dark_block_is_read_by_the_range_of_its_scene(full):
    """Half of the scene has no colour above 1 of 255, which alone would be taken for fractions."""
    scene, unet = make_scene(0), make_unet(features="rgb")
    shares = np.random.default_rng(1).uniform(0, 1, (300, 3))
    shares[scene["points"][:, 0] < 2] /= 255
    shares[0] = 1
    expected = segment(unet, {**scene, "rgb": shares.astype(np.float32)}, extent=2.0)
    assert np.allclose(segment(unet, {**scene, "rgb": shares * full}, extent=2.0), expected, atol=1e-4)


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


@pytest.mark.parametrize("extent", [np.inf, 1.0])
def test_blocks_of_points_that_are_not_finite_are_refused(extent):
    points = np.array([[0, 0, 0], [1, np.nan, 0]])
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        overlapping_blocks(points, extent)


def test_scene_may_lie_anywhere():
    unet, scene = make_unet(), make_scene(0)
    far = {**scene, "points": scene["points"] + np.array([1024, -512, 64], np.float32)}  # by which nothing is rounded much
    assert np.allclose(segment(unet, far, 1.5), segment(unet, scene, 1.5), atol=2e-3)
    first, second = center(as_cloud(scene))["points"], center(as_cloud(far))["points"]
    assert np.allclose(first, second, atol=1e-4)
    assert np.allclose(first.min(0) + first.max(0), [0, 0, np.ptp(first[:, 2])], atol=1e-4)
    assert first[:, 2].min() == 0
    intensity = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(center({"points": intensity})["points"][:, 3], [3, 7])
    assert np.array_equal(intensity, np.arange(8).reshape(2, 4)), "the given array stays"


def test_whole_scene_is_what_the_network_says():
    unet, scene = make_unet().eval(), make_scene(0)
    with torch.no_grad():
        expected = unet([center(as_cloud(scene))]).softmax(1).numpy()
    assert np.allclose(segment(unet, scene), expected, rtol=1e-5, atol=1e-6)


def test_blocks_cover_every_point_and_vote():
    unet, scene = make_unet().train(), make_scene(0)
    shares = segment(unet, scene, extent=1.5, overlap=0.5)
    assert shares.shape == (300, 3)
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    assert unet.training
    expected, count = np.zeros((300, 3)), np.zeros(300)
    unet.eval()
    for rows in overlapping_blocks(scene["points"], 1.5, 0.5):
        with torch.no_grad():
            expected[rows] += unet([center({"points": scene["points"][rows]})]).softmax(1).numpy()
        count[rows] += 1
    assert (count > 1).any()
    assert np.allclose(shares, expected / count[:, None], atol=1e-5)
    assert not np.allclose(shares, segment(unet, scene), atol=1e-3), "or the blocks would be the scene"


def test_progress_counts_each_point_once(capsys):
    segment(make_unet(), make_scene(0), extent=1.0, overlap=0.5, progress="a scene")
    err = capsys.readouterr().err
    assert "a scene: 100%" in err
    assert "300/300" in err


def test_progress_counts_each_point_once_also_where_a_class_has_no_chance(capsys):
    unet = make_unet()
    with torch.no_grad():
        unet.decoder.head.bias.copy_(torch.tensor([-300.0, 0.0, 0.0]))
    segment(unet, make_scene(0), extent=1.0, overlap=0.5, progress="a scene")
    assert "300/300" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_no_classes():
    unet = make_unet()
    with torch.no_grad():
        unet.decoder.head.bias[1] = float("nan")
    with pytest.raises(DivergedError, match="NaN or infinite"):
        segment(unet, make_scene(0))


def test_scene_without_points_is_refused():
    with pytest.raises(InvalidInputError, match="at least one"):
        segment(make_unet(), {"points": np.zeros((0, 3), np.float32)})


@pytest.mark.parametrize("extent", [None, 1.5])
def test_a_scene_on_a_map_has_the_classes_that_it_has_at_the_origin(extent):
    unet, scene = make_unet(), make_scene(0)
    points = np.round(scene["points"] * 1024) / 1024
    far = points + np.array([448_256.0, 5_411_840.0, 128.0])  # exactly, in doubles
    assert not np.array_equal(far.astype(np.float32), far)
    assert np.array_equal(segment(unet, {"points": far}, extent), segment(unet, {"points": points}, extent))


def test_blocks_do_not_depend_on_where_a_scene_lies():
    points = np.random.default_rng(0).integers(0, 4096, (500, 3)) / 1024
    near, far = (list(overlapping_blocks(points + offset, 0.7, 0.3)) for offset in (0, 5_411_840.0))
    assert [rows.tolist() for rows in near] == [rows.tolist() for rows in far]


def test_what_a_network_does_not_read_is_left_out_and_what_it_reads_must_be_there():
    unet, scene = make_unet(features="xyz,intensity", in_chans=4), make_scene(0)
    intensity = np.full((300, 1), 0.5, np.float32)
    shares = segment(unet, {**scene, "intensity": intensity, "field:broken": intensity * np.nan})
    assert np.array_equal(shares, segment(unet, {**scene, "intensity": intensity}))
    with pytest.raises(InvalidInputError, match="The scene has no intensity, which the features xyz,intensity ask for"):
        segment(unet, scene)


@pytest.mark.parametrize("extent", [None, 1.0])
def test_a_scene_of_one_point_has_a_class(extent):
    shares = segment(make_unet(), {"points": np.array([[448_256.5, 5_411_840.25, 128.0]])}, extent)
    assert shares.shape == (1, 3)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
