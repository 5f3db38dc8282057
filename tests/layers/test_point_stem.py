"""The layers of the point stem: a new 3x3x3 convolution at stride one."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import InvalidInputError, create_model
from i2p_zoo.layers.point_stem import PointStemConv3d
from tests.helpers import dense_convolution, make_window, random_cloud, relative_error

CONVOLUTIONS = {"test_resnet": "conv1.0", "test_efficientnet": "conv_stem"}  # that read the image


@pytest.mark.parametrize("in_chans", [1, 3, 4, 6])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_point_stem_is_a_new_3x3x3_convolution_from_the_voxels_channels_at_stride_one(name, in_chans):
    model = create_model(name, stem="point", in_chans=in_chans)
    layer = model.get_submodule(CONVOLUTIONS[name])
    assert type(layer) is PointStemConv3d
    assert layer.weight.shape[1:] == (3, 3, 3, in_chans)
    assert layer.weight.requires_grad
    x = random_cloud(in_chans, voxels=200, extent=8, dtype=torch.float32)
    out = layer(x)
    assert torch.equal(out.coords, x.coords)
    expected = dense_convolution(
        x.features.double(), x.coords, x.coords, layer.weight.detach().double(), None, make_window((3, 3, 3)), 1
    )
    assert relative_error(out.features, expected) < 1e-5
    assert (model.settings.stem, model.in_chans) == ("point", in_chans)
    with pytest.raises(InvalidInputError, match=f"reads {in_chans} channels? a voxel, and the input has {in_chans + 1}\\."):
        model(random_cloud(in_chans + 1, dtype=torch.float32))


def test_point_stem_weights_are_drawn_for_a_relu_network_by_fan_out():
    torch.manual_seed(0)
    layer = create_model("resnet10t", stem="point", in_chans=6).conv1[0]
    assert layer.weight.std().item() == pytest.approx((2 / (27 * layer.out_channels)) ** 0.5, rel=0.05)
    assert abs(layer.weight.mean().item()) < 0.01


def test_seven_by_seven_stem_becomes_3x3x3_and_a_one_by_one_branch_stays():
    assert create_model("resnet18", stem="point").conv1.weight.shape == (64, 3, 3, 3, 3)
    model = create_model("repvgg_a0", stem="point")
    assert model.stem.conv_kxk.conv.weight.shape[1:4] == (3, 3, 3)
    assert model.stem.conv_1x1.conv.weight.shape[1:4] == (1, 1, 1)
