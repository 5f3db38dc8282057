"""The paper's own networks: layer by layer against dense float64 convolutions of its description."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import InvalidInputError, SparseTensor, UnsupportedError
from i2p_zoo.finetune import evaluate, freeze, train
from i2p_zoo.layers.normalized_linear import LogitNorm
from i2p_zoo.networks.presets import set_preset_
from tests.finetune.test_freezing import shapes
from tests.helpers import randomise_norms_, relative_error, seeded

EXTENT = 16  # of the dense grid; sites have coordinates of 0 and more
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def make(name, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = i2p_zoo.create_model(name, preset="image2point", **{"num_classes": 5, **kwargs})
    return randomise_norms_(model, 1).double().eval()


def cloud(voxels=60, batch=2):
    random = seeded(5)
    places = torch.randperm(EXTENT**3, generator=random)[: voxels * batch].view(batch, voxels)
    sites = [(b, p // EXTENT**2, p // EXTENT % EXTENT, p % EXTENT) for b, row in enumerate(places.tolist()) for p in row]
    coords = torch.tensor(sorted(sites), dtype=torch.int32)
    return SparseTensor(torch.randn(len(coords), 3, generator=random, dtype=torch.float64), coords, batch_size=batch)


class Dense:
    """Features on a dense grid with a mask of the sites, convolved by `conv3d`; everything else is written out."""

    def __init__(self, state, x):
        self.state = state
        size = (x.batch_size, *[EXTENT] * 3)
        self.mask = torch.zeros(size, dtype=torch.float64)
        self.grid = torch.zeros(x.batch_size, 3, *[EXTENT] * 3, dtype=torch.float64)
        b, z, y, x_ = x.coords.long().unbind(1)
        self.mask[b, z, y, x_] = 1
        self.grid[b, :, z, y, x_] = x.features
        self.seen = {}

    def convolve(self, grid, mask, name, stride):
        weight = self.state[f"{name}.weight"].permute(0, 4, 1, 2, 3)
        edge = weight.shape[-1]
        low, high = {3: (1, 1), 2: (0, 1), 1: (0, 0)}[edge]  # taps -1, 0, 1; 0, 1; 0
        if stride == 2:
            mask = F.max_pool3d(mask, 2)  # the unique floor(c / 2)
        out = F.conv3d(F.pad(grid, [low, high] * 3), weight, stride=stride)
        out = out[..., : mask.shape[1], : mask.shape[2], : mask.shape[3]] * mask[:, None]
        self.seen[name] = out, mask
        return out, mask

    def normalise(self, grid, mask, name):
        mean, var, weight, bias = (self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / (var + 1e-5).sqrt()
        out = (grid * scale[:, None, None, None] + (bias - mean * scale)[:, None, None, None]) * mask[:, None]
        self.seen[name] = out, mask
        return out

    def block(self, grid, mask, name, stride):
        convolutions = sum(f"{name}.conv{n}.weight" in self.state for n in (1, 2, 3))
        strided = 1 if convolutions == 2 else 2
        out, sites = grid, mask
        for n in range(1, convolutions + 1):
            out, sites = self.convolve(out, sites, f"{name}.conv{n}", stride if n == strided else 1)
            out = self.normalise(out, sites, f"{name}.bn{n}")
            out = out.relu() if n < convolutions else out
        shortcut = grid
        if f"{name}.downsample.0.weight" in self.state:
            shortcut, _ = self.convolve(grid, mask, f"{name}.downsample.0", stride)
            shortcut = self.normalise(shortcut, sites, f"{name}.downsample.1")
        out = (out + shortcut).relu()
        self.seen[name] = out, sites
        return out, sites

    def run(self, blocks):
        grid, mask = self.convolve(self.grid, self.mask, "conv1", 1)
        grid = self.normalise(grid, mask, "bn1")  # and no activation
        for stage, count in enumerate(blocks, 1):
            for number in range(count):
                grid, mask = self.block(grid, mask, f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1)
        pooled = grid.sum((2, 3, 4)) / mask.sum((1, 2, 3))[:, None]
        logits = pooled @ self.state["fc.weight"].t() + self.state["fc.bias"]
        mean, var, weight, bias = (self.state[f"fc.norm.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (logits - mean) / (var + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("name", BLOCKS)
def test_every_layer_is_the_papers(name):
    model, x = make(name), cloud()
    seen = {}
    dense = Dense(model.state_dict(), x)
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


def test_new_classifier_has_its_norm_too():
    model = make("resnet18")
    model.reset_classifier(9)
    assert model.fc.norm.num_features == 9
    assert model([np.random.default_rng(0).random((50, 3))]).shape == (1, 9)
    model.reset_classifier(0)
    assert model([np.random.default_rng(0).random((50, 3))]).shape == (1, 512)


@pytest.mark.parametrize("mode", ["io", "io+bn", "all"])
def test_each_mode_trains_the_norm_on_the_logits_with_the_classifier(mode):
    model = make("resnet18", num_classes=3).float()
    freeze(model, mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, shapes(), steps=2, batch_size=8)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"conv1.weight", "fc.weight", "fc.norm.weight", "fc.norm.running_mean"} <= changed
    assert ("bn1.running_mean" in changed) is (mode != "io")
    assert 0 <= evaluate(model, shapes()).top1 <= 1


def test_trained_network_saves_and_loads_again(tmp_path):
    model = make("resnet18")
    model.save_pretrained(tmp_path)
    again = i2p_zoo.from_pretrained(tmp_path)
    assert again.settings == model.settings
    assert torch.equal(again(cloud()), model(cloud()))


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
    make("resnet18").save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="features_only"):
        i2p_zoo.from_pretrained(tmp_path, features_only=True)
