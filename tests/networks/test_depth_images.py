"""Depth images against a rule written out point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2p_zoo.networks.depth_images import SIDES, render_depth


def draw_slowly(points, batch, batch_size, size):
    images = np.zeros((batch_size, SIDES, size, size))
    for cloud, point in zip(batch, points, strict=True):
        place = np.clip((point / 1.35 + 1) / 2, 0, 1)
        pixel = np.minimum((place * size).astype(int), size - 1)
        for axis, (right, up) in enumerate([(1, 2), (0, 2), (0, 1)]):
            for towards in (0, 1):
                depth = place[axis] if towards else 1 - place[axis]
                column = pixel[right] if towards else size - 1 - pixel[right]
                image = images[cloud, 2 * axis + towards]
                row = size - 1 - pixel[up]
                image[row, column] = max(image[row, column], 0.25 + 0.75 * depth)
    return images


def test_images_are_what_drawing_point_by_point_gives():
    random = np.random.default_rng(0)
    points, batch = random.normal(0, 0.6, (500, 3)), np.sort(random.integers(0, 3, 500))
    images = render_depth(torch.from_numpy(points), torch.from_numpy(batch), 3, 12)
    np.testing.assert_allclose(images.numpy(), draw_slowly(points, batch, 3, 12), rtol=0, atol=1e-12)


def test_a_nearer_point_hides_a_farther_one_and_opposite_sides_are_mirrored():
    points = torch.tensor([[0.5, 0.2, 0.1], [-0.5, 0.2, 0.1]], dtype=torch.float64)
    images = render_depth(points, torch.zeros(2), 1, 16)[0]
    near = 0.25 + 0.75 * (0.5 / 1.35 + 1) / 2
    assert images[0].max() == images[1].max() == pytest.approx(near)
    assert (images[:2] > 0).sum((1, 2)).tolist() == [1, 1]
    assert torch.equal(images[0], images[1].flip(1))
    assert (images[2:] > 0).sum((1, 2)).tolist() == [2, 2, 2, 2]


def test_a_splat_is_a_square():
    image = render_depth(torch.zeros(1, 3), torch.zeros(1), 1, 16, splat=5)[0, 0]
    assert int((image > 0).sum()) == 25
