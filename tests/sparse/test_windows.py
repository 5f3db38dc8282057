"""From a 2D window's arguments to the 3D window: the new axis and skipped strides."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import image_to_plane
from i2p_zoo.sparse.geometry import insert_axis
from i2p_zoo.sparse.windows import plan_window
from tests.helpers import random_cloud

ZEROS = ((0, 0), (0, 0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_new_axis_takes_the_larger_of_each_and_centred_padding(axis):
    x = random_cloud(1).with_plan(axis=axis)
    window, level = plan_window(x, (3, 5), (1, 2), ((1, 0), (2, 3)), (1, 2), ceil_mode=True)
    assert (window.new_axis, window.ceil_mode, level) == (axis, True, 1)
    assert window.kernel == insert_axis((3, 5), 5, axis)
    assert window.stride == insert_axis((1, 2), 2, axis)
    assert window.dilation == insert_axis((1, 2), 2, axis)
    assert window.before == insert_axis((1, 2), 4, axis)
    assert window.after == insert_axis((0, 3), 4, axis)


@pytest.mark.parametrize(("depth", "before"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)])
def test_a_given_depth_is_centred_with_the_lesser_half_first(depth, before):
    window, _ = plan_window(random_cloud(1), (7, 7), (1, 1), ((3, 3), (3, 3)), depth=depth)
    assert (window.kernel, window.before) == ((depth, 7, 7), (before, 3, 3))


def test_a_layers_own_axis_comes_before_the_plans():
    window, _ = plan_window(random_cloud(1).with_plan(axis=1), (3, 5), (1, 1), ZEROS, axis=2)
    assert (window.kernel, window.new_axis) == ((3, 5, 5), 2)


@pytest.mark.parametrize(
    ("skip", "level", "stride", "run_at", "level_after"),
    [
        (0, 0, (2, 2), (2, 2), 1),
        (0, 3, (1, 1), (1, 1), 3),
        (1, 0, (2, 2), (1, 1), 1),
        (1, 1, (2, 2), (2, 2), 2),
        (2, 1, (2, 2), (1, 1), 2),
        (1, 0, (4, 4), (2, 2), 2),  # a stride of four is two halvings
        (2, 0, (4, 4), (1, 1), 2),
        (9, 0, (4, 4), (1, 1), 2),
        (1, 0, (2, 1), (1, 1), 1),
        (1, 0, (1, 1), (1, 1), 0),
    ],
)
def test_the_first_halvings_are_skipped(skip, level, stride, run_at, level_after):
    x = random_cloud(1).with_plan(skip_downsamples=skip, level=level)
    window, after = plan_window(x, (3, 3), stride, ((1, 1), (1, 1)))
    assert window.stride == (max(run_at), *run_at)
    assert after == level_after


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_same_padding_follows_height_and_width_of_the_image(axis):
    x = image_to_plane(torch.zeros(1, 1, 7, 8), axis)
    window, _ = plan_window(x, (3, 3), (2, 2), None)
    number = "zyx".index(axis)
    assert window.before == insert_axis((1, 0), 1, number)
    assert window.after == insert_axis((1, 1), 1, number)


def test_same_padding_of_a_skipped_stride_is_that_of_stride_one():
    x = image_to_plane(torch.zeros(1, 1, 8, 8)).with_plan(skip_downsamples=1)
    window, _ = plan_window(x, (3, 3), (2, 2), None)
    assert (window.stride, window.before, window.after) == ((1, 1, 1), (1, 1, 1), (1, 1, 1))


def test_same_padding_of_a_cloud_is_that_of_an_even_extent():
    window, _ = plan_window(random_cloud(1), (3, 5), (2, 2), None)
    assert (window.before, window.after) == ((2, 0, 1), (2, 1, 2))
