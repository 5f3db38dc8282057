"""The sparse CondConv against timm's 2D layer on images, and against the mixed weight's convolution on clouds."""

from __future__ import annotations

import pytest
import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn
from torch.nn import functional as F

from i2p_zoo import UnsupportedError, image_to_plane, inflate, inflate_weight
from i2p_zoo.layers.conditional_convolution import SparseCondConv3d
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error, strided_sites
from tests.oracles import inflated, randomised

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
EXTENTS = pytest.mark.parametrize("extents", [(8, 8), (7, 9), (9, 6)], ids=str)


class Routed(nn.Module):
    """A CondConv2d whose experts are weighted by the pooled input, as timm's blocks do it."""

    def __init__(self, conv):
        super().__init__()
        self.routing = nn.Linear(conv.in_channels, conv.num_experts)
        self.conv = conv

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.conv(x, self.routing(pooled).sigmoid())


CONVOLUTIONS = {
    "3x3": lambda: CondConv2d(3, 4),
    "3x3/2": lambda: CondConv2d(3, 4, 3, 2, bias=True),
    "1x1 of two experts": lambda: CondConv2d(3, 4, 1, num_experts=2),
    "1x1/2": lambda: CondConv2d(3, 4, 1, 2, bias=True),
    "5x5/2 depthwise": lambda: CondConv2d(4, 4, 5, 2, groups=4, num_experts=3),
    "3x3 of groups": lambda: CondConv2d(4, 6, 3, groups=2, bias=True),
    "3x3 dilated": lambda: CondConv2d(3, 4, 3, dilation=2),
    "3x3 of one expert": lambda: CondConv2d(3, 4, 3, num_experts=1),
    "3x3 valid": lambda: CondConv2d(3, 4, 3, padding="valid"),
    "3x3 of padding 1": lambda: CondConv2d(3, 4, 3, padding=1),
    "3x3/2 'same'": lambda: CondConv2d(3, 4, 3, 2, padding="same"),
    "4x4/2 'same'": lambda: CondConv2d(3, 4, 4, 2, padding="same", bias=True),
    "5x5/2 'same' depthwise": lambda: CondConv2d(4, 4, 5, 2, padding="same", groups=4),
    "1x3": lambda: CondConv2d(3, 4, (1, 3), padding=(0, 1)),
}


@AXES
@EXTENTS
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_conditional_convolution_of_a_plane_is_that_of_the_image(make, extents, axis):
    network = randomised(Routed(make()).double())
    layers = inflate(network, axis=axis)
    assert type(layers.conv) is SparseCondConv3d
    check_on_plane(layers, random_images(2, network.conv.in_channels, *extents), axis=axis, of_image=network)


@AXES
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_experts_and_routing_get_the_gradients_of_the_2d_network(make, axis):
    network = randomised(Routed(make()).double())
    layers = inflate(network, axis=axis)
    images = random_images(2, network.conv.in_channels, 9, 8)
    layers(image_to_plane(images, axis)).dense().square().sum().backward()
    network(images).square().sum().backward()
    leaf, layer, dim = network.conv, layers.conv, 2 + "zyx".index(axis)
    planes = leaf.weight.grad.reshape(leaf.num_experts, *leaf.weight_shape).movedim(2, -1)
    assert relative_error(layer.weight.grad.select(dim, (layer.weight.shape[dim] - 1) // 2), planes) < 1e-11
    assert relative_error(layers.routing.weight.grad, network.routing.weight.grad) < 1e-11
    if leaf.bias is not None:
        assert relative_error(layer.bias.grad, leaf.bias.grad) < 1e-11


@AXES
@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_each_experts_flat_weight_is_inflated_and_its_bias_copied(make, inflation, axis):
    leaf = randomised(make())
    for depth in (None, 1, 3):
        layer = inflated(leaf, axis, inflation, depth)
        assert list(layer.state_dict()) == list(leaf.state_dict())
        length = min(depth or 99, max(leaf.kernel_size))
        for flat, weight in zip(leaf.weight, layer.weight, strict=True):
            assert torch.equal(weight, inflate_weight(flat.view(leaf.weight_shape), inflation, axis, length))
        assert leaf.bias is None or torch.equal(layer.bias, leaf.bias)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
def test_on_a_cloud_each_sample_is_convolved_by_its_own_mixed_weight(inflation, stride):
    leaf = randomised(CondConv2d(3, 4, 3, stride, bias=True).double())
    layer = inflated(leaf, "y", inflation)
    x = random_cloud(3, voxels=80, batch_size=3)
    routing = random_images(3, 4)
    out = layer(x, routing)
    assert sorted(map(tuple, out.coords.tolist())) == strided_sites(x.coords, (stride,) * 3)
    for sample in range(3):
        plain = nn.Conv2d(3, 4, 3, stride, 1).double()
        with torch.no_grad():
            plain.weight.copy_((routing[sample] @ leaf.weight).view(plain.weight.shape))
            plain.bias.copy_(routing[sample] @ leaf.bias)
        expected = inflated(plain, "y", inflation)(x)
        rows = out.coords[:, 0] == sample
        assert relative_error(out.features[rows], expected.features[rows]) < 1e-12


def test_an_expert_alone_is_that_expert():
    leaf = randomised(CondConv2d(3, 4, 3, bias=True).double())
    layer = inflated(leaf)
    x = random_cloud(3, batch_size=2)
    plain = nn.Conv2d(3, 4, 3, padding=1).double()
    for expert in range(4):
        with torch.no_grad():
            plain.weight.copy_(leaf.weight[expert].view(plain.weight.shape))
            plain.bias.copy_(leaf.bias[expert])
        out = layer(x, torch.eye(4).double()[[expert, expert]])
        assert relative_error(out.features, inflated(plain)(x).features) < 1e-12


def test_padding_before_it_is_taken_up():
    network = nn.Sequential(nn.ZeroPad2d(1), Routed(CondConv2d(3, 4, 3, padding="valid")))
    network[1].routing = nn.Identity()
    network = randomised(network.double())

    def function(layers):
        return lambda x: layers[1].conv(layers[0](x), torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2).double())

    check_on_plane(function(inflate(network)), random_images(2, 3, 7, 6), of_image=function(network))


def test_new_experts_are_scaled_by_fan_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = SparseCondConv3d(num_experts=3, in_channels=32, out_channels=64, kernel_size=3)
        layer.reset_parameters()
    assert abs(float(layer.weight.detach().std()) / (2 / (27 * 64)) ** 0.5 - 1) < 0.05


def test_a_kernel_of_another_size_does_not_inflate():
    layer = inflated(CondConv2d(3, 4, 3))
    assert layer.inflate_tensor("weight", torch.zeros(4, 3 * 4 * 25), "center") is None
    assert layer.inflate_tensor("bias", torch.zeros(4, 4), "center") is None


def test_channels_behind_are_refused():
    with pytest.raises(UnsupportedError, match="needs channels before"):
        inflated(CondConv2d(3, 4))(random_cloud(3, dtype=torch.float32).permute(0, 2, 3, 1), torch.ones(2, 4))
