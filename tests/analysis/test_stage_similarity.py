"""CKA against the formula of kernels, features by stage against maps taken by hand, movement against norms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.analysis import draw_similarity, linear_cka, measure_movement, stage_features
from i2p_zoo.analysis.stage_similarity import measure_similarity
from i2p_zoo.experiments.views import ViewNetwork
from tests.finetune.conftest import modes_and_hooks, resnet, shapes


def hsic(x, y):
    centre = np.eye(len(x)) - 1 / len(x)
    return np.trace(x @ x.T @ centre @ y @ y.T @ centre)


def test_likeness_is_the_ratio_of_independence_criteria():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 5)), random.normal(size=(20, 30))
    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-12)


def test_rotation_scale_and_shift_change_nothing_and_noise_is_unlike():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=random, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=random, dtype=torch.float64))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert linear_cka(x, torch.randn(200, 8, generator=random)) < 0.1
    assert np.isnan(linear_cka(x, torch.ones(200, 3)))
    with pytest.raises(InvalidInputError, match=r"\(200, 8\) and \(3, 8\)"):
        linear_cka(x, x[:3])


def test_features_of_a_stage_are_the_means_of_its_map():
    model, clouds = resnet(), shapes(7)
    before = modes_and_hooks(model)
    features = stage_features(model, clouds, 3)
    assert modes_and_hooks(model) == before
    with torch.no_grad():
        model.eval()
        for number, cloud in enumerate(clouds.points):
            maps = model.forward_intermediates(model.prepare([cloud]), intermediates_only=True)
            for stage, expected in zip(list(features)[1:], maps[1:], strict=True):
                torch.testing.assert_close(features[stage][number], expected.features.mean(0), rtol=1e-4, atol=1e-5)


def test_views_of_a_cloud_give_their_mean():
    model, clouds = ViewNetwork(timm.create_model("test_resnet", num_classes=3), size=32), shapes(5)
    features = stage_features(model, clouds, 2)
    assert {len(values) for values in features.values()} == {5}
    assert list(features) == list(stage_features(resnet(), clouds))


def test_a_transformer_s_stages_are_means_of_tokens():
    model = i2p_zoo.create_model("test_vit", voxel_size=0.2)
    features = stage_features(model, shapes(3))
    assert features
    assert all(values.shape == (3, model.embed_dim) for values in features.values())


def test_movement_is_relative_to_the_norm_before_and_leaves_out_what_has_another_shape():
    before = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    after = nn.Sequential(copy.deepcopy(before[0]), nn.Linear(4, 5))
    with torch.no_grad():
        after[0].weight.mul_(1.5)
        after[0].bias.mul_(9)
    assert measure_movement(before, after) == {"0.weight": pytest.approx(0.5)}
    with torch.no_grad():
        before[0].weight.zero_()
    assert measure_movement(before, after) == {"0.weight": float("inf")}
    with pytest.raises(InvalidInputError, match="no weight in common"):
        measure_movement(nn.Linear(1, 2), nn.Linear(2, 2))


def test_a_network_is_like_itself_and_moves_where_it_was_moved(tmp_path):
    before = resnet()
    after = copy.deepcopy(before)
    with torch.no_grad():
        shortcut = next(p for p in after.layer3[0].downsample.parameters() if p.ndim > 1)
        shortcut.copy_(shortcut.flip(0))
    image = ViewNetwork(timm.create_model("test_resnet", num_classes=3), size=32)
    measured = measure_similarity(image, before, after, shapes(9))
    stages = list(measured.before_after)  # of which the first ends the stem and has no weight of its own
    assert list(measured.moved) == ["stem", *stages[1:], "head"]
    assert {stage for stage, moved in measured.moved.items() if moved} == {"layer3"}
    assert measured.before_after["layer2"] == pytest.approx(1)
    assert measured.before_after["layer4"] < 0.9999
    draw_similarity(tmp_path / "similarity.png", measured)
    assert (tmp_path / "similarity.png").stat().st_size > 1000


def test_networks_without_stages_and_sets_without_clouds_are_told():
    with pytest.raises(InvalidInputError, match="0 stages"):
        stage_features(i2p_zoo.inflate(nn.Sequential(nn.Conv2d(3, 4, 3))), shapes(3))
    with pytest.raises(InvalidInputError, match=r"clouds \(0\)"):
        stage_features(resnet(), shapes(3).subset([]))
    other = i2p_zoo.create_model("test_efficientnet", num_classes=3, voxel_size=0.2)
    with pytest.raises(InvalidInputError, match="the same stages"):
        measure_similarity(resnet(), resnet(), other, shapes(3))
