"""A transposed convolution against its 2D leaf on images: values, gradients and the way of its weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2p_zoo import UnsupportedError, inflate
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import inflated, randomised

LEAVES = {
    "2x2": nn.ConvTranspose2d(4, 3, 2, 2),
    "2x2 without bias": nn.ConvTranspose2d(4, 4, 2, 2, bias=False),
    "4x4": nn.ConvTranspose2d(4, 3, 4, 2, 1),
    "depthwise": nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4),
    "depthwise, two of each": nn.ConvTranspose2d(4, 8, 2, 2, groups=4),
    "of stride 1": nn.ConvTranspose2d(4, 3, 3, 1, 1),
}
ON_LEAVES = pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES.keys())


def network(leaf):
    """A strided layer before the leaf, where it goes back up."""
    down = nn.Conv2d(4, 4, 2, 2) if leaf.stride == (2, 2) else nn.Conv2d(4, 4, 1)
    return randomised(nn.Sequential(down, leaf).double())


@ON_LEAVES
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_it_is_the_2d_leaf_on_images(leaf, axis):
    model = network(leaf)
    check_on_plane(inflate(model, axis=axis), random_images(2, 4, 6, 8), axis=axis, of_image=model)


@ON_LEAVES
@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
def test_its_weight_is_deflated_to_one_that_inflates_to_the_same_bits(leaf, inflation):
    leaf = randomised(leaf)
    for depth in (None, 1, 2):
        layer = inflated(leaf, inflation=inflation, depth=depth)
        flat = layer.deflate_tensor("weight", layer.weight.detach(), inflation)
        assert relative_error(flat, leaf.weight) < 1e-6
        assert torch.equal(layer.inflate_tensor("weight", flat, inflation), layer.weight)
        assert layer.inflate_tensor("bias", torch.ones(1), inflation) is None


REFUSED = {
    "groups of two": nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
    "a padded output": nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1),
    "dilation": nn.ConvTranspose2d(4, 4, 3, 2, dilation=2),
    "two strides": nn.ConvTranspose2d(4, 4, 2, (2, 1)),
}


@pytest.mark.parametrize("leaf", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_sparse_counterpart_is_named(leaf):
    with pytest.raises(UnsupportedError, match=r"0: ConvTranspose2d with .*only"):
        inflate(nn.Sequential(leaf))


def test_it_needs_the_sites_that_a_layer_of_its_stride_started_from():
    layer = inflated(nn.ConvTranspose2d(4, 3, 2, 2).double())
    with pytest.raises(UnsupportedError, match="by 2 needs the finer sites"):
        layer(random_cloud(4))
    model = inflate(network(nn.ConvTranspose2d(4, 3, 2, 2)))
    x = random_cloud(4)
    assert torch.equal(model(x).coords.unique(dim=0), x.coords.unique(dim=0))


def test_another_extent_than_the_finer_sites_have_is_refused():
    model = inflate(network(nn.ConvTranspose2d(4, 3, 3, 2)))
    with pytest.raises(UnsupportedError, match=r"to \(7, 9\) \(height, width\).*\(6, 8\)"):
        check_on_plane(model, random_images(1, 4, 6, 8), of_image=lambda x: x)
