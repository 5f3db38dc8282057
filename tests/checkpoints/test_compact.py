"""Compact checkpoints: a layer that is still a pure inflation is stored as its 2D kernel and comes back bit for bit."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

import i2p_zoo
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.kernel_inflation import deflate_weight, has_same_bits, inflate_weight
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import randomise_norms_, seeded

SIZES = [1, 2, 3, 5, 7]


def kernel(size, groups=1, dtype=torch.float32, channels=8):
    """A 2D kernel of normal numbers, with both zeros and a denormal number among them."""
    height, width = size if isinstance(size, tuple) else (size, size)
    weight = torch.randn(channels, channels // groups, height, width, generator=seeded(height)).to(dtype)
    weight.view(-1)[:3] = torch.tensor([0.0, -0.0, 1e-40], dtype=dtype)
    return weight


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("size", [*SIZES, (1, 3), (7, 1)], ids=str)
@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("inflation", INFLATIONS)
def test_deflated_weight_inflates_to_the_same_bits(inflation, axis, size, groups):
    flat = kernel(size, groups)
    inflated = inflate_weight(flat, inflation, axis)
    deflated = deflate_weight(inflated, inflation, axis)
    length = inflated.shape[1 + "zyx".index(axis)]
    if deflated is None:  # w / n * n is not w for every w and n; the weight is stored as it is then
        assert length not in {"average": (1, 2), "triangle": (1, 2, 3)}[inflation]
        return
    assert deflated.shape == flat.shape
    assert has_same_bits(inflate_weight(deflated, inflation, axis, length), inflated)
    if inflation in ("center", "copy"):
        assert has_same_bits(deflated, flat)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inflation", ["center", "copy"])
def test_deflation_is_exact_in_other_dtypes(inflation, dtype):
    flat = kernel(3, dtype=dtype)
    assert has_same_bits(deflate_weight(inflate_weight(flat, inflation), inflation), flat)


@pytest.mark.parametrize("inflation", INFLATIONS)
@pytest.mark.parametrize(("size", "depth"), [(3, 1), (7, 3), (3, 2), (5, 4)])
def test_depth_is_that_of_the_weight(inflation, size, depth):
    inflated = inflate_weight(kernel(size), inflation, depth=depth)
    deflated = deflate_weight(inflated, inflation)
    assert deflated is None if deflated is None else has_same_bits(inflate_weight(deflated, inflation, depth=depth), inflated)
    assert deflated is not None or inflation in ("average", "triangle")


def flip_lowest_bit(numbers, place):
    numbers.view(torch.int32)[place] ^= 1


def flip_sign(numbers, place):
    numbers.view(torch.int32)[place] ^= -(2**31)


@pytest.mark.parametrize("flip", [flip_lowest_bit, flip_sign])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("inflation", INFLATIONS)
def test_a_single_changed_bit_off_the_middle_is_no_inflation(inflation, axis, size, flip):
    dim = 1 + "zyx".index(axis)
    whole = inflate_weight(kernel(size), inflation, axis)
    places = torch.arange(whole.numel()).reshape(whole.shape)
    for plane in {0, size - 1} - {(size - 1) // 2}:
        for place in places.select(dim, plane).flatten()[::17].tolist():
            changed = whole.clone()
            flip(changed.view(-1), place)
            assert deflate_weight(changed, inflation, axis) is None


def test_negative_zero_in_place_of_zero_is_no_inflation():
    changed = inflate_weight(torch.ones(1, 1, 3, 3), "center")
    assert deflate_weight(changed, "center") is not None
    changed[0, 0, 1, 1, 0] = -0.0
    assert deflate_weight(changed, "center") is None


@pytest.mark.parametrize(
    ("made", "read"), [("center", "copy"), ("center", "average"), ("copy", "center"), ("average", "center")]
)
def test_weight_of_another_inflation_is_none(made, read):
    assert deflate_weight(inflate_weight(kernel(3), made), read) is None


def make_model(name="test_resnet", **kwargs):
    """Inflated from a 2D network with random weights, as `convert` does."""
    return randomise_norms_(i2p_zoo.create_model(name, num_classes=10, **kwargs)).eval()


def convolutions(model):
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, SparseConv3d)}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet"])
@pytest.mark.parametrize("kwargs", [{}, {"axis": "x"}, {"depth": 2}, {"stem": "point"}, {"in_chans": 5}], ids=str)
@pytest.mark.parametrize("inflation", INFLATIONS)
def test_compact_and_whole_checkpoints_hold_the_same_network(tmp_path, inflation, kwargs, name):
    model = make_model(name, inflation=inflation, **kwargs)
    compact = save_pretrained(model, tmp_path / "compact")
    whole = save_pretrained(model, tmp_path / "whole", compact=False)
    assert (
        fingerprint(load_folder(compact, build_network)) == fingerprint(load_folder(whole, build_network)) == fingerprint(model)
    )
    assert (compact / WEIGHTS).stat().st_size < (whole / WEIGHTS).stat().st_size
    assert [json.loads((f / CONFIG).read_text())["i2p"]["compact"] for f in (compact, whole)] == [True, False]


def test_whole_checkpoint_has_every_convolution_in_3d(tmp_path):
    model = make_model("test_efficientnet")
    state = load_file(save_pretrained(model, tmp_path, compact=False) / WEIGHTS)
    layers = convolutions(model)
    assert len(layers) > 5
    for key, layer in layers.items():
        height, width = layer.kernel_size
        expected = (layer.out_channels, max(height, width), height, width, layer.in_channels // layer.groups)
        assert tuple(state[key].shape) == expected, key
        assert torch.equal(state[key], layer.weight), key


def test_compact_checkpoint_has_the_shapes_and_bits_of_timm(tmp_path):
    source = timm.create_model("test_resnet")
    model = i2p_zoo.inflate(source)
    state = load_file(save_pretrained(model, tmp_path) / WEIGHTS)
    assert {key: tuple(t.shape) for key, t in state.items()} == {k: tuple(t.shape) for k, t in source.state_dict().items()}
    assert all(has_same_bits(state[key], tensor) for key, tensor in source.state_dict().items())


def test_compact_resnet18_is_as_small_as_the_2d_network(tmp_path):
    source = timm.create_model("resnet18")
    save_file(source.state_dict(), tmp_path / "flat.safetensors")
    model = i2p_zoo.inflate(source)
    flat, compact = (tmp_path / "flat.safetensors").stat().st_size, (save_pretrained(model, tmp_path) / WEIGHTS).stat().st_size
    assert compact <= 1.02 * flat
    assert fingerprint(load_folder(tmp_path, build_network)) == fingerprint(model)


@pytest.mark.parametrize("inflation", ["center", "copy"])
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "layer4.0.conv2.weight"])
def test_only_the_changed_convolution_is_stored_in_3d(tmp_path, inflation, key):
    model = make_model(inflation=inflation)
    before = load_file(save_pretrained(model, tmp_path / "before") / WEIGHTS)
    assert all(before[key].ndim == 4 for key in convolutions(model))
    with torch.no_grad():
        flip_lowest_bit(model.get_parameter(key).view(-1), 0)
    after = load_file(save_pretrained(model, tmp_path / "after") / WEIGHTS)
    assert [key for key in after if after[key].shape != before[key].shape] == [key]
    assert tuple(after[key].shape) == tuple(model.get_parameter(key).shape)
    assert fingerprint(load_folder(tmp_path / "after", build_network)) == fingerprint(model)


def test_seven_planes_of_an_average_may_be_stored_in_3d_and_come_back(tmp_path):
    source = timm.create_model("resnet18", layers=(1, 1, 1, 1), num_classes=3)
    model = i2p_zoo.create_model("resnet18", inflation="average", layers=(1, 1, 1, 1), num_classes=3)
    assert source.conv1.kernel_size == (7, 7)
    state = load_file(save_pretrained(model, tmp_path) / WEIGHTS)
    assert (state["conv1.weight"].ndim == 4) == (deflate_weight(model.conv1.weight, "average") is not None)
    assert fingerprint(load_folder(tmp_path, build_network)) == fingerprint(model)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("inflation", ["center", "copy"])
def test_experts_kernels_go_there_and_back(inflation, axis, groups, size):
    flat = CondConv2d(8, 12, size, groups=groups, bias=True, num_experts=3)
    layer = i2p_zoo.inflate(nn.Sequential(flat), inflation=inflation, axis=axis)[0]
    assert tuple(layer.weight.shape[:2]) == (3, 12)
    deflated = layer.deflate_tensor("weight", layer.weight.detach(), inflation)
    assert has_same_bits(deflated, flat.weight.detach())
    assert has_same_bits(layer.inflate_tensor("weight", deflated, inflation), layer.weight.detach())
    assert layer.deflate_tensor("bias", layer.bias.detach(), inflation) is None
    changed = layer.weight.detach().clone()
    changed[2, 0].view(-1).view(torch.int32)[0] ^= 1
    again = layer.deflate_tensor("weight", changed, inflation)
    assert again is None if size > 1 else has_same_bits(layer.inflate_tensor("weight", again, inflation), changed)
