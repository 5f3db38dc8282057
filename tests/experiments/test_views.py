"""Depth images against a rule written out point by point, and a 2D network trained on them as a 3D one is."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.experiments.views import SIDES, ViewNetwork, render_depth
from i2p_zoo.finetune import evaluate, freeze
from tests.finetune.conftest import shapes, train


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


@pytest.mark.parametrize(("size", "splat"), [(4, 1), (16, 2), (16, 0)])
def test_numbers_out_of_range_are_refused(size, splat):
    with pytest.raises(InvalidInputError, match="odd splat"):
        ViewNetwork(timm.create_model("test_resnet"), size, splat)


def test_logits_are_the_mean_over_the_sides_of_each_cloud():
    torch.manual_seed(0)
    model = ViewNetwork(timm.create_model("test_resnet", num_classes=5), size=32).eval()
    clouds = [np.random.default_rng(n).uniform(-1, 1, (50 + 30 * n, 3)) for n in range(2)]
    with torch.no_grad():
        together = model(clouds)
        alone = torch.cat([model([cloud]) for cloud in clouds])
    torch.testing.assert_close(together, alone)
    assert model.num_classes == 5
    assert model.pretrained_cfg["mean"] == model.network.pretrained_cfg["mean"]


def test_the_mean_feature_has_the_mean_of_the_sides_logits():
    torch.manual_seed(0)
    model = ViewNetwork(timm.create_model("test_resnet", num_classes=5), size=32).eval()
    points = torch.rand(60, 3) * 2 - 1
    with torch.no_grad():
        logits = model([points.numpy()])
        x = model.settings.voxelize([points.numpy()])[0]
        images = render_depth(x.features, x.coords[:, 0], 1, 32, model.splat)[0]
        expected = model.network((images[:, None] - model.mean) / model.std).mean(0, keepdim=True)
    torch.testing.assert_close(logits, expected)


def test_a_frozen_network_keeps_its_statistics_and_trains_its_classifier_alone():
    model, clouds = ViewNetwork(timm.create_model("test_resnet", num_classes=3), size=32), shapes(12, 60)
    assert freeze(model, "head").trained == sum(p.numel() for p in model.get_classifier().parameters())
    before = {name: buffer.clone() for name, buffer in model.network.named_buffers()}
    train(model, clouds, steps=2)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.network.named_buffers())


def test_it_trains_and_is_evaluated_as_a_3d_network_is():
    torch.manual_seed(0)
    model, clouds = ViewNetwork(timm.create_model("test_resnet", num_classes=3), size=32), shapes(48, 60)
    before = evaluate(model, clouds).top1
    train(model, clouds, steps=30, learning_rate=0.02)
    assert evaluate(model, clouds).top1 > max(before, 0.8)
    assert model.pretrained_cfg["label_names"] == list(clouds.classes)
