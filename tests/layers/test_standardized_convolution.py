"""The sparse weight-standardised convolutions against timm's on images, and their weights against inflation's rule."""

from __future__ import annotations

import pytest
import torch
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn
from torch.nn import functional as F

from i2p_zoo import UnsupportedError, image_to_plane, inflate_weight
from i2p_zoo.layers.standardized_convolution import SparseStdConv3d
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import inflated, randomised

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
EXTENTS = pytest.mark.parametrize("extents", [(8, 8), (7, 9), (9, 6)], ids=str)

CONVOLUTIONS = {
    "3x3": lambda: StdConv2d(3, 4, 3),
    "3x3/2": lambda: StdConv2d(3, 4, 3, 2, bias=True),
    "7x7/2": lambda: StdConv2d(3, 4, 7, 2),
    "1x1": lambda: StdConv2d(3, 4, 1),
    "1x1/2": lambda: StdConv2d(3, 4, 1, 2),
    "3x3 of groups": lambda: StdConv2d(4, 6, 3, groups=2),
    "3x3 dilated": lambda: StdConv2d(3, 4, 3, dilation=2),
    "1x3": lambda: StdConv2d(3, 4, (1, 3), padding=(0, 1)),
    "3x3 valid, another eps": lambda: StdConv2d(3, 4, 3, padding=0, eps=0.1),
    "3x3 'same'": lambda: StdConv2dSame(3, 4, 3),
    "3x3/2 'same'": lambda: StdConv2dSame(3, 4, 3, 2),
    "4x4/2 'same'": lambda: StdConv2dSame(3, 4, 4, 2, bias=True),
    "7x7/2 'same'": lambda: StdConv2dSame(3, 4, 7, 2),
    "3x3/2 of symmetric padding": lambda: StdConv2dSame(3, 4, 3, 2, padding=""),
    "scaled 3x3": lambda: ScaledStdConv2d(3, 4, 3),
    "scaled 3x3/2": lambda: ScaledStdConv2d(3, 4, 3, 2, bias=False, gamma=1.7),
    "scaled 1x1": lambda: ScaledStdConv2d(3, 4, 1, gamma=1.7),
    "scaled 3x3 depthwise": lambda: ScaledStdConv2d(4, 4, 3, groups=4, gamma=0.3),
    "scaled 3x3 of groups, dilated": lambda: ScaledStdConv2d(4, 6, 3, groups=2, dilation=2, eps=0.1),
    "scaled 3x3/2 'same'": lambda: ScaledStdConv2dSame(3, 4, 3, 2, gamma=1.7),
    "scaled 2x2 'same'": lambda: ScaledStdConv2dSame(3, 4, 2),
    "scaled 5x5/2 'same' of groups": lambda: ScaledStdConv2dSame(4, 4, 5, 2, groups=2),
    "scaled 3x3 valid": lambda: ScaledStdConv2dSame(3, 4, 3, padding="valid"),
}


@AXES
@EXTENTS
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_standardised_convolution_of_a_plane_is_that_of_the_image(make, extents, axis):
    leaf = randomised(make().double())
    layer = inflated(leaf, axis)
    assert type(layer) is SparseStdConv3d
    check_on_plane(layer, random_images(2, leaf.in_channels, *extents), axis=axis, of_image=leaf)


@AXES
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_parameters_get_the_gradients_of_the_2d_layer(make, axis):
    leaf = randomised(make().double())
    layer = inflated(leaf, axis)
    images = random_images(2, leaf.in_channels, 9, 8)
    layer(image_to_plane(images, axis)).dense().square().sum().backward()
    leaf(images).square().sum().backward()
    dim = 1 + "zyx".index(axis)
    found = layer.weight.grad.select(dim, (layer.weight.shape[dim] - 1) // 2)
    assert relative_error(found, leaf.weight.grad.permute(0, 2, 3, 1)) < 1e-11
    for name in ("bias", "gain"):
        if getattr(leaf, name, None) is not None:
            assert relative_error(getattr(layer, name).grad, getattr(leaf, name).grad) < 1e-11


def standardised(leaf):
    """The 2D weight that timm's layer convolves with."""
    flat = leaf.weight.reshape(1, leaf.out_channels, -1)
    scale = (leaf.gain * leaf.scale).view(-1) if hasattr(leaf, "gain") else None
    return F.batch_norm(flat, None, None, scale, training=True, momentum=0.0, eps=leaf.eps).reshape_as(leaf.weight)


@AXES
@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_standardising_and_inflating_commute(make, inflation, axis):
    leaf = randomised(make().double())
    for depth in (None, 1, 2, 3):
        layer = inflated(leaf, axis, inflation, depth)
        length = min(depth or 99, max(leaf.kernel_size))
        assert torch.equal(layer.weight, inflate_weight(leaf.weight, inflation, axis, length))
        assert relative_error(layer.kernel(), inflate_weight(standardised(leaf), inflation, axis, length)) < 1e-12


def test_the_kernel_stays_standardised_whatever_its_weight_becomes():
    for inflation in ("center", "average", "copy"):
        layer = inflated(randomised(StdConv2d(3, 4, 3, eps=0).double()), "z", inflation)
        with torch.no_grad():
            layer.weight.copy_(random_images(*layer.weight.shape))
        kernel = layer.kernel().sum(1) / (3 if inflation == "copy" else 1)
        assert kernel.flatten(1).mean(1).abs().max() < 1e-12
        assert (kernel.flatten(1).var(1, correction=0) - 1).abs().max() < 1e-12


def test_a_pooled_gate_runs_through_a_one_by_one_layer():
    for leaf in (StdConv2d(4, 6, 1, bias=True), ScaledStdConv2d(4, 6, 1, groups=2, gamma=1.7)):
        gate = random_images(3, 4, 1, 1)
        assert relative_error(inflated(randomised(leaf.double()))(gate), leaf(gate)) < 1e-12


def test_on_a_cloud_it_is_the_plain_convolution_of_its_kernel():
    leaf = randomised(ScaledStdConv2d(3, 4, 3, 2, gamma=1.7).double())
    plain = nn.Conv2d(3, 4, 3, 2, 1).double()
    with torch.no_grad():
        plain.weight.copy_(standardised(leaf))
        plain.bias.copy_(leaf.bias)
    x = random_cloud(3, voxels=80)
    for inflation in ("center", "average", "copy"):
        out, expected = (inflated(layer, "y", inflation)(x) for layer in (leaf, plain))
        assert out.coords is expected.coords
        assert relative_error(out.features, expected.features) < 1e-12


def test_a_new_layer_has_scaled_weights_and_a_gain_of_one():
    layer = SparseStdConv3d(inflation="average", eps=1e-6, gamma=1.7, in_channels=3, out_channels=4, kernel_size=3)
    with torch.no_grad():
        layer.gain.zero_()
        layer.weight.zero_()
    layer.reset_parameters()
    assert layer.gain.tolist() == [[[[1.0]]]] * 4
    assert layer.weight.std() > 0
    assert "inflation=average, gamma=1.7" in repr(layer)
    assert "gamma=None" in repr(inflated(StdConv2d(3, 4, 3)))


def test_padding_by_anything_but_zeros_is_refused():
    leaf = StdConv2d(3, 4, 3)
    leaf.padding_mode = "reflect"
    with pytest.raises(UnsupportedError, match="padding_mode='reflect'"):
        inflated(leaf)
