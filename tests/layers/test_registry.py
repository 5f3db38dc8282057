"""The table of 2D leaves: which types are replaced, kept and supported."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.global_context import GlobalContext
from timm.layers.non_local_attn import BilinearAttnTransform
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from i2p_zoo import I2PError, SparseConv3d, UnsupportedError, inflate, keep, replaces
from i2p_zoo.layers.registry import _builders, find_builder, is_supported, supported_types
from tests.helpers import check_on_plane, random_images, seeded


class OwnConvolution(nn.Conv2d):
    pass


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_types_are_matched_exactly():
    leaf = OwnConvolution(3, 4, 3)
    assert find_builder(leaf) is None
    assert not is_supported(leaf)
    assert find_builder(nn.Conv2d(3, 4, 3)) is find_builder(Conv2dSame(3, 4, 3)) is not None
    assert is_supported(nn.Conv2d(3, 4, 3))


class Owner(nn.Module):
    """A module with one tensor of its own, of a shape, a parameter or a buffer."""

    def __init__(self, shape, kind="parameter"):
        super().__init__()
        self.register_parameter("nothing", None)
        if kind == "parameter":
            self.weight = nn.Parameter(torch.ones(shape))
        else:
            self.register_buffer("weight", torch.ones(shape))

    def forward(self, x):
        return x * self.weight.flatten()[0]


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1, 1), (1, 5, 1, 1), (1, 1, 1, 5), (1, 1), (0,)], ids=str)
def test_a_module_whose_own_tensors_are_vectors_or_scalars_is_supported(shape, kind):
    assert is_supported(Owner(shape, kind))
    assert find_builder(Owner(shape, kind)) is None


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("shape", [(2, 2), (5, 1, 2), (1, 3, 3), (4, 3, 1, 1), (2, 1, 1, 3)], ids=str)
def test_a_module_that_owns_a_matrix_keeps_it_and_its_forward(shape, kind):
    assert is_supported(Owner(shape, kind))
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Owner(shape, kind)).double()
    check_on_plane(inflate(network), random_images(2, 3, 4, 5), of_image=network)


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose1d(3, 4, 3), nn.Bilinear(3, 3, 4), nn.GRU(3, 4), nn.MultiheadAttention(4, 2)]
)
def test_an_unregistered_layer_of_torchs_with_spatial_weights_is_refused(layer):
    assert not is_supported(layer)
    with pytest.raises(UnsupportedError, match=f"1: .*{type(layer).__name__} owns"):
        inflate(nn.Sequential(nn.Conv2d(3, 4, 3), layer))
    assert is_supported(nn.Sequential(layer)), "its parts are asked for themselves"


def test_a_module_without_tensors_or_of_a_usual_norm_is_supported():
    for module in (nn.ReLU(), nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.PReLU(3), nn.RMSNorm(3), Scale()):
        assert is_supported(module)
        assert find_builder(module) is None
    assert is_supported(nn.Sequential(Scale()))


def test_an_unregistered_module_of_a_vector_keeps_it_and_its_forward():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Owner((1, 4, 1, 1)))
    with torch.no_grad():
        network[1].weight.fill_(3)
    layers = inflate(network)
    assert torch.equal(layers[1].weight, network[1].weight)
    check_on_plane(layers.double(), random_images(2, 3, 4, 5), of_image=network.double())


def test_a_leaf_type_is_registered_once():
    assert f"{__name__}.OwnConvolution" not in supported_types()
    try:

        @replaces(OwnConvolution)
        def build(leaf, axis, depth, inflation):
            return SparseConv3d(leaf.in_channels, leaf.out_channels, 3)

        keep(Scale)
        assert find_builder(OwnConvolution(3, 4, 3)) is build
        assert is_supported(OwnConvolution(3, 4, 3))
        assert is_supported(Scale())
        assert f"{__name__}.OwnConvolution" in supported_types()
        for again in (lambda: replaces(OwnConvolution)(build), lambda: keep(OwnConvolution), lambda: replaces(Scale)(build)):
            with pytest.raises(I2PError, match="registered as a 2D leaf already"):
                again()
        with pytest.raises(I2PError, match=r"torch\.nn\.modules\.conv\.Conv2d is registered"):
            keep(nn.ReLU, nn.Conv2d)
        assert nn.ReLU not in _builders, "nothing is registered where one type was"
    finally:
        for kind in (OwnConvolution, Scale, nn.ReLU):
            _builders.pop(kind, None)
    assert supported_types() == sorted(supported_types())


LEAVES = {
    "global context": (lambda: GlobalContext(8, use_attn=True, fuse_add=True, rd_channels=4), "conv_attn"),
    "bilinear attention": (lambda: BilinearAttnTransform(8, 2, 2), "conv1"),
    "batch norm and activation": (lambda: BatchNormAct2d(8), "act"),
}


@pytest.mark.parametrize(("make", "part"), LEAVES.values(), ids=LEAVES.keys())
def test_a_layer_that_takes_over_a_leaf_shares_its_tensors_and_is_otherwise_independent(make, part):
    leaf = make()
    parts, state = dict(leaf.named_modules()), leaf.state_dict()
    layer = find_builder(leaf)(leaf, axis="z", depth=None, inflation="center")
    assert all(layer.state_dict()[key].data_ptr() == value.data_ptr() for key, value in state.items())
    setattr(layer, part, nn.Identity())
    layer.register_buffer("more", torch.ones(1), persistent=False)
    layer.register_forward_hook(lambda *_: None)
    layer.training = not leaf.training
    assert all(dict(leaf.named_modules())[name] is module for name, module in parts.items())
    assert leaf.state_dict().keys() == state.keys()
    assert not hasattr(leaf, "more")
    assert not leaf._non_persistent_buffers_set
    assert not leaf._forward_hooks
    assert leaf.training


@pytest.mark.parametrize("make", [make for make, _ in LEAVES.values()], ids=LEAVES.keys())
def test_a_network_stays_as_it_was_when_it_is_inflated(make):
    network = nn.Sequential(nn.Conv2d(3, 8, 1), make()).eval()
    images = torch.rand(2, 3, 4, 4, generator=seeded())
    before, modules = network(images), list(network.modules())
    layers = inflate(network)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(1)
    assert torch.equal(network(images), before)
    assert all(a is b for a, b in zip(network.modules(), modules, strict=True))
