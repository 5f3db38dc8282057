"""Lambda's Conv3d over height, width and features, against the leaf on images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2p_zoo import UnsupportedError, image_to_plane, inflate
from tests.helpers import random_images, relative_error
from tests.oracles import check_as_image, inflated, randomised

LEAVES = {
    "3x3": nn.Conv3d(1, 4, (3, 3, 1), padding=(1, 1, 0)),
    "1x5 without bias": nn.Conv3d(1, 2, (1, 5, 1), padding=(0, 2, 0), bias=False),
}
ON_LEAVES = pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES.keys())


def features(x):
    """(B, C, H, W) as (B, 1, H, W, C)."""
    return x.permute(0, 2, 3, 1).unsqueeze(1)


@ON_LEAVES
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_it_is_the_leaf_on_images(leaf, axis):
    leaf = randomised(leaf.double())
    layer = inflated(leaf, axis)
    check_as_image(lambda x: layer(features(x)), random_images(2, 3, 6, 8), of_image=lambda x: leaf(features(x)), axis=axis)


@ON_LEAVES
@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
def test_its_weight_is_deflated_to_one_that_inflates_to_the_same_bits(leaf, inflation):
    leaf = randomised(leaf)
    layer = inflated(leaf, inflation=inflation)
    flat = layer.deflate_tensor("weight", layer.weight.detach(), inflation)
    assert relative_error(flat, leaf.weight) < 1e-6
    assert torch.equal(layer.inflate_tensor("weight", flat, inflation), layer.weight)
    assert list(layer.state_dict()) == list(leaf.state_dict())


REFUSED = {
    "a kernel along the features": nn.Conv3d(1, 4, 3, padding=1),
    "channels": nn.Conv3d(2, 4, (3, 3, 1), padding=(1, 1, 0)),
    "a stride": nn.Conv3d(1, 4, (3, 3, 1), stride=2),
    "padded features": nn.Conv3d(1, 4, (3, 3, 1), padding=1),
    "a mirror": nn.Conv3d(1, 4, (3, 3, 1), padding=(1, 1, 0), padding_mode="reflect"),
}


@pytest.mark.parametrize("leaf", REFUSED.values(), ids=REFUSED.keys())
def test_any_other_conv3d_is_named(leaf):
    with pytest.raises(UnsupportedError, match=r"0: Conv3d with .*only"):
        inflate(nn.Sequential(leaf))


def test_what_is_no_image_of_features_is_refused():
    layer = inflated(LEAVES["3x3"].double())
    with pytest.raises(UnsupportedError, match=r"expected \(batch, 1, height, width, features\)"):
        layer(image_to_plane(random_images(2, 3, 6, 8)).permute(1, 2, 3, 0).unsqueeze(1))
