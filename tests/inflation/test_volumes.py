"""Kernels drawn in three dimensions: their scale, what stays, and that the activations behind them keep theirs."""

from __future__ import annotations

import copy

import pytest
import torch

import i2p_zoo
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.inflation.volumes import draw_volumes_
from i2p_zoo.layers.convolution import SparseConv3d


@pytest.mark.parametrize("inflation", INFLATIONS)
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_each_kernel_has_the_variance_of_its_2d_one_over_three_and_no_planes_alike(name, inflation):
    torch.manual_seed(0)
    flat = i2p_zoo.create_model(name, inflation="copy", num_classes=10)
    torch.manual_seed(0)
    model = i2p_zoo.create_model(name, inflation=inflation, num_classes=10)
    draw_volumes_(model)
    kernels = dict(flat.named_parameters())
    seen = 0
    for key, tensor in model.named_parameters():
        source = kernels[key].detach()
        if tensor.ndim == 5 and tensor.shape[1] > 1:
            seen += 1
            planes = tensor.shape[1]
            expected = source.square().mean() / planes
            assert float(tensor.detach().square().mean() / expected) == pytest.approx(1, abs=6 * (2 / tensor.numel()) ** 0.5)
            assert not any(torch.equal(tensor[:, 0], tensor[:, plane]) for plane in range(1, planes))
        else:
            assert torch.equal(tensor, source), key
    assert seen > 10


def test_a_point_stem_and_trained_kernels_stay():
    model = i2p_zoo.create_model("test_resnet", inflation="average", stem="point")
    with torch.no_grad():
        model.layer1[0].conv2.weight[0, 0, 0, 0, 0] += 1
    before = copy.deepcopy(model.state_dict())
    draw_volumes_(model)
    after = model.state_dict()
    stays = {key for key in before if torch.equal(before[key], after[key])}
    changed = before.keys() - stays
    assert {"conv1.0.weight", "layer1.0.conv2.weight"} <= stays
    assert "layer1.0.conv1.weight" in changed
    assert all(before[key].ndim == 5 for key in changed)


def test_the_generator_decides():
    def draw(seed):
        torch.manual_seed(0)
        model = i2p_zoo.create_model("test_resnet")
        torch.manual_seed(seed)
        draw_volumes_(model)
        return model.state_dict()

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_sum_over_a_full_volume_keeps_the_scale_that_a_plane_has_in_2d():
    torch.manual_seed(0)
    model = i2p_zoo.create_model("resnet18", inflation="average")
    draw_volumes_(model)
    convolution = model.layer2[1].conv1
    assert isinstance(convolution, SparseConv3d)
    fan_in, fan_out = convolution.weight[0].numel(), convolution.weight.numel() // convolution.weight.shape[-1]
    variance = float(convolution.weight.detach().square().mean())
    assert variance * fan_out == pytest.approx(2, rel=0.02)  # timm's ResNet is drawn by its fan out
    assert fan_in == fan_out == 128 * 27
