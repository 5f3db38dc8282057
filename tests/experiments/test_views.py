"""A 2D network trained on depth images as a 3D one is on voxels."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.analysis import penultimate_features
from i2p_zoo.experiments import Setup, build_model
from i2p_zoo.experiments.views import ViewNetwork
from i2p_zoo.finetune import evaluate, freeze
from i2p_zoo.networks.depth_images import render_depth
from tests.finetune.conftest import shapes, train


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


def test_views_by_all_maps_read_what_the_pyramid_has_beside_the_inflated_network():
    clouds, classes = shapes(6, 60), ("a", "b", "c")
    setup = Setup("i2p-test_resnet", "head", scratch=True, network="views", readout="pyramid", voxel_size=0.1)
    model, count = build_model(setup, classes, seed=3)
    both, _ = build_model(
        Setup("i2p-test_resnet", "head", True, stem="image", readout="pyramid+views", voxel_size=0.1), classes, 3
    )
    features, joined = (penultimate_features(each, clouds) for each in (model, both))
    assert features.shape[1] == model.get_classifier().in_features < joined.shape[1]
    torch.testing.assert_close(features, joined[:, -features.shape[1] :])
    assert count.trained == sum(parameter.numel() for parameter in model.get_classifier().parameters())
    assert not model.train().views.training, "frozen views stay on the statistics of images"
    freeze(model, "all")
    assert model.train().views.training
