"""Figures as plotly is given them: what each mark of the slider shows, how many of how many, colours and names."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace

import numpy as np
import pytest

from i2p_zoo import InvalidInputError, MissingExtraError
from i2p_zoo.experiments.scene_runs import color_classes
from i2p_zoo.viewing import draw_classes, draw_cloud, view_cloud

pytest.importorskip("plotly")


def make_view(count=400, **changes):
    points = np.random.default_rng(0).random((count, 3))
    return replace(view_cloud(points, voxel_size=0.1), **changes)


def shown(figure, number):
    """The traces that a mark of the slider shows, and its title."""
    visible, layout = figure.layout.sliders[0].steps[number].args
    return [trace for trace, seen in zip(figure.data, visible["visible"], strict=True) if seen], layout["title.text"]


def labels(figure):
    return [step.label for step in figure.layout.sliders[0].steps]


def test_the_slider_goes_from_points_to_the_coarsest_voxels():
    view = make_view()
    figure = draw_cloud(view)
    assert labels(figure) == ["points", "stride 1", "stride 2", "stride 4", "stride 8"]
    assert [trace.visible for trace in figure.data] == [True, False, False, False, False]
    for number, level in enumerate(view.levels, start=1):
        (mesh,), title = shown(figure, number)
        assert mesh.type == "mesh3d"
        assert title.startswith(f"stride {level.stride[0]}: {len(level.sites)} voxel")
        assert len(mesh.facecolor) == len(mesh.i)
    assert figure.layout.title.text == "400 points"


def test_points_and_voxels_stand_in_one_place():
    """Far out too, where float32 has no digits left for an object's own."""
    points = np.random.default_rng(0).random((50, 3)) + np.array([5e6, 4e6, 100.0])
    figure = draw_cloud(view_cloud(points, voxel_size=0.25))
    (cloud,), _ = shown(figure, 0)
    (mesh,), _ = shown(figure, 1)
    for column, axis in enumerate("xyz"):
        drawn = np.asarray(cloud[axis], np.float64)
        assert np.ptp(drawn) == pytest.approx(np.ptp(points[:, column]), abs=1e-3)
        assert np.min(mesh[axis]) - 0.02 <= drawn.min()
        assert drawn.max() <= np.max(mesh[axis]) + 0.02


@pytest.mark.parametrize(("count", "most", "title"), [(1000, 1000, "1,000 points"), (1001, 1000, "501 of 1,001 points")])
def test_a_large_cloud_is_thinned_and_says_so(count, most, title):
    figure = draw_cloud(make_view(count), most_points=most)
    (cloud,), text = shown(figure, 0)
    assert text == title
    assert len(cloud.x) <= most


def test_of_many_voxels_those_nearest_the_middle_are_drawn():
    points = np.stack(np.meshgrid(*[np.arange(9) + 0.5] * 3), axis=-1).reshape(-1, 3)
    figure = draw_cloud(view_cloud(points, voxel_size=1), most_voxels=27)
    (mesh,), title = shown(figure, 1)
    assert title == "stride 1: 729 voxels of 1; drawn are the 27 nearest the middle"
    assert len(mesh.i) == 2 * 6 * 9  # the faces of a cube of 3 x 3 x 3
    layout = figure.layout.sliders[0].steps[1].args[1]
    low, high = layout["scene.xaxis.range"]
    assert high - low == pytest.approx((3 - 0.06) * 1.08)


def test_classes_of_points_have_their_colors_and_a_legend():
    view = make_view(6, labels=np.array([2, 0, 2, 2, 0, 2]), names=("road", "<i>car</i>", "a & b"))
    figure = draw_cloud(view)
    assert labels(figure)[:2] == ["points", "classes"]
    traces, title = shown(figure, 1)
    assert title == "6 points, by class"
    assert [trace.name for trace in traces] == ["a &amp; b", "road"]
    assert [len(trace.x) for trace in traces] == [4, 2]
    red, green, blue = color_classes(np.array([2]))[0]
    assert traces[0].marker.color == f"#{red:02x}{green:02x}{blue:02x}"
    assert all(trace.visible for trace in traces)
    assert not figure.data[0].visible


def test_points_keep_their_own_colors_and_else_show_their_height():
    rgb = np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3]], np.uint8)
    cloud = {"points": np.eye(3), "rgb": rgb}
    (points,), _ = shown(draw_cloud(view_cloud(cloud, voxel_size=1)), 0)
    assert list(points.marker.color) == ["#ff0000", "#00ff00", "#010203"]
    (points,), _ = shown(draw_cloud(view_cloud(cloud["points"], voxel_size=1)), 0)
    assert points.marker.color[0] == points.marker.color[1] != points.marker.color[2]


def test_bars_are_percents_from_the_top_with_names_as_they_are():
    figure = draw_classes({"<b>x</b>": 0.9, "x": 0.07, "y": 0.03}, "classes")
    (bars,) = figure.data
    assert list(bars.x) == pytest.approx([90, 7, 3])
    assert list(bars.text) == ["90.0 %", "7.0 %", "3.0 %"]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;x&lt;/b&gt;", "x", "y"]
    assert figure.layout.yaxis.autorange == "reversed"


@pytest.mark.parametrize("numbers", [{"most_points": 0}, {"most_voxels": -1}])
def test_numbers_to_draw_are_positive(numbers):
    with pytest.raises(InvalidInputError, match="1 or more"):
        draw_cloud(make_view(), **numbers)


@pytest.mark.parametrize("draw", [lambda: draw_cloud(make_view()), lambda: draw_classes({"a": 1.0})])
def test_without_plotly_the_extra_is_named(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[view\]"):
        draw()


def test_numbers_are_packed():
    """As text a page would be some five times as large."""
    trace = draw_cloud(make_view()).to_plotly_json()["data"][0]
    assert len(base64.b64decode(trace["x"]["bdata"])) == 4 * 400
