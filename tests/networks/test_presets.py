"""The paper's own networks: layer by layer against dense float64 convolutions of its description."""

from __future__ import annotations

import pytest
import timm
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.layers.normalization import LogitNorm
from i2p_zoo.networks.presets import set_preset_
from tests.helpers import relative_error
from tests.networks.conftest import DenseNetwork, grid_cloud, make_papers_network

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_is_the_papers(name):
    model, x = make_papers_network(name), grid_cloud()
    seen = {}
    dense = DenseNetwork(model.state_dict(), x)
    expected = dense.run(BLOCKS[name])
    for layer, module in model.named_modules():
        if layer in dense.seen:

            def note(module, inputs, out, layer=layer):
                seen[layer] = out.coords.long(), out.features.clone(), out.stride  # timm's activations work in place

            module.register_forward_hook(note)
    with torch.no_grad():
        logits = model(x)
    assert seen.keys() == dense.seen.keys()
    for layer, (grid, mask) in dense.seen.items():
        coords, features, _ = seen[layer]
        b, z, y, x_ = coords.unbind(1)
        assert len(coords) == int(mask.sum()), layer
        assert relative_error(features, grid[b, :, z, y, x_]) < 1e-12, layer
    assert seen["layer4.0"][2] == 8
    assert relative_error(logits, expected) < 1e-12


def test_shortcut_repeats_the_image_weight_undivided_and_the_stem_is_new(tmp_path):
    source = timm.create_model("resnet18").eval()
    flat = i2p_zoo.inflate(source, inflation="copy")
    flat.architecture = "resnet18"
    flat.save_pretrained(tmp_path)
    model = i2p_zoo.from_pretrained(tmp_path, preset="image2point", num_classes=7)
    weight = model.layer2[0].downsample[0].weight
    assert tuple(weight.shape) == (128, 2, 2, 2, 64)
    for tap in weight.detach().flatten(1, 3).unbind(1):
        assert torch.equal(tap, source.layer2[0].downsample[0].weight[:, :, 0, 0])
    kernel = model.layer1[0].conv1.weight.detach()
    for slice_ in kernel.unbind(1):
        assert torch.equal(slice_, source.layer1[0].conv1.weight.permute(0, 2, 3, 1))
    assert tuple(model.conv1.weight.shape) == (64, 3, 3, 3, 3)
    assert isinstance(model.fc.norm, LogitNorm)
    assert model.settings.preset == "image2point"


def test_trained_network_saves_and_loads_again(tmp_path):
    model = make_papers_network("resnet18")
    model.save_pretrained(tmp_path)
    again = i2p_zoo.from_pretrained(tmp_path)
    assert again.settings == model.settings
    assert torch.equal(again(grid_cloud()), model(grid_cloud()))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("resnet34", {"preset": "image2point"}, UnsupportedError, "resnet18, resnet50.*got 'resnet34'"),
        ("resnet18", {"preset": "paper"}, InvalidInputError, "image2point; got 'paper'"),
    ],
)
def test_what_the_paper_does_not_have_is_refused(name, arguments, error, words):
    with pytest.raises(error, match=words):
        i2p_zoo.create_model(name, **arguments)


def test_center_inflated_folder_is_inflated_by_copy_for_it(tmp_path):
    i2p_zoo.create_model("resnet18").save_pretrained(tmp_path)
    model = i2p_zoo.from_pretrained(tmp_path, preset="image2point")
    assert model.settings.inflation == "copy"
    kernel = model.layer1[0].conv1.weight
    assert torch.equal(kernel, kernel[:, 1:2].expand_as(kernel))


def test_image_stem_or_another_inflation_is_not_the_papers():
    model = i2p_zoo.create_model("resnet18", inflation="average", stem="point")
    with pytest.raises(InvalidInputError, match=r"needs inflation='copy'.*got inflation='average' and stem='point'"):
        set_preset_(model, "image2point")


def test_features_only_takes_no_preset(tmp_path):
    make_papers_network("resnet18").save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="features_only"):
        i2p_zoo.from_pretrained(tmp_path, features_only=True)
