"""LoRA on any network: what trains, what it computes, and that merging gives the network again."""

from __future__ import annotations

import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo.errors import InvalidInputError, MissingExtraError
from i2p_zoo.finetune import add_lora_, freeze, lora_config, merge_lora_
from tests.finetune.conftest import assert_same_bits, figures, shapes, state_of, train
from tests.helpers import random_cloud

NETWORKS = ["test_resnet", "test_vit", "test_nfnet", "test_convnext", "test_efficientnet", "test_byobnet"]


def make_network(name="test_resnet"):
    torch.manual_seed(0)
    return i2p_zoo.create_model(name, num_classes=3, inflation="average", stem="point").double().eval()


def shake(model):
    """Gives every trained parameter another value, as training does."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_changes_are_nothing_at_first_train_alone_and_merge(name, tmp_path):
    x = random_cloud(3, voxels=80, extent=8)
    network = make_network(name)
    before = network(x)
    lora = get_peft_model(network, lora_config(network, r=2)).eval()
    assert torch.equal(lora(x), before)
    F.cross_entropy(lora(x), torch.tensor([0, 1])).backward()
    trained = {key for key, parameter in lora.named_parameters() if parameter.grad is not None}
    assert trained == {key for key, parameter in lora.named_parameters() if parameter.requires_grad}
    assert all("lora_" in key or "modules_to_save" in key for key in trained)
    shake(lora)
    after = lora(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    merged = lora.merge_and_unload()
    assert type(merged) is type(make_network(name))
    torch.testing.assert_close(merged(x), after, rtol=1e-10, atol=1e-12)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(i2p_zoo.from_pretrained(tmp_path / "merged")(x), merged(x), rtol=0, atol=0)


def test_change_is_the_product_that_the_paper_writes():
    """W + (alpha / r) B A, with W taken for a matrix of its outputs: eq. 3 of Hu et al. 2021, by a dense convolution."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network.get_classifier = lambda: network[4]
    flat = network.double()
    solid = i2p_zoo.inflate(flat)
    solid.get_classifier = lambda: solid[4]
    weight = solid[0].weight.detach().clone()
    lora = get_peft_model(solid, lora_config(solid, r=2, lora_alpha=6))
    shake(lora)
    layer = solid[0]
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    expected = weight + (6 / 2) * (b @ a).view_as(weight)
    image = torch.rand(2, 2, 6, 7, dtype=torch.float64)
    got = layer(i2p_zoo.image_to_plane(image)).features
    plane = F.conv2d(image, expected[:, 1].permute(0, 3, 1, 2), flat[0].bias, padding=1)  # what meets the plane z = 0
    torch.testing.assert_close(got, plane.permute(0, 2, 3, 1).reshape(-1, 4), rtol=1e-12, atol=1e-12)


def test_adapter_of_peft_comes_back(tmp_path):
    x = random_cloud(3, voxels=80, extent=8)
    network = make_network()
    lora = get_peft_model(network, lora_config(network, r=2)).eval()
    shake(lora)
    lora.save_pretrained(tmp_path)
    other = make_network()
    config = lora_config(other, r=2)
    again = PeftModel.from_pretrained(other, tmp_path, config=config).eval()
    assert torch.equal(again(x), lora(x))


def test_adapter_is_switched_off_and_unmerged():
    x = random_cloud(3, voxels=80, extent=8)
    network = make_network()
    before = network(x)
    lora = get_peft_model(network, lora_config(network, r=2)).eval()
    shake(lora)
    after = lora(x)
    with lora.disable_adapter():
        assert torch.equal(lora(x), before)
    lora.merge_adapter()
    torch.testing.assert_close(lora(x), after, rtol=1e-10, atol=1e-12)
    lora.unmerge_adapter()
    torch.testing.assert_close(lora(x), after, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "option", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}], ids=lambda o: next(iter(o))
)
def test_variant_that_convolutions_lack_is_refused(option):
    with pytest.raises(InvalidInputError, match="plain LoRA"):
        lora_config(make_network(), **option)


def test_network_without_a_classifier_is_refused():
    with pytest.raises(InvalidInputError, match="no classifier"):
        lora_config(i2p_zoo.create_model("test_resnet", num_classes=0, stem="point"))


def test_pefts_own_config_does_for_linear_layers():
    x = random_cloud(3, voxels=80, extent=8)
    network = make_network("test_vit")
    before = network(x)
    lora = get_peft_model(network, LoraConfig(r=2, target_modules=["qkv", "fc1"], modules_to_save=["head"])).eval()
    assert torch.equal(lora(x), before)
    shake(lora)
    after = lora(x)
    torch.testing.assert_close(lora.merge_and_unload()(x), after, rtol=1e-9, atol=1e-10)


def without_others():
    """A network of an input layer and a classifier alone."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    solid = i2p_zoo.inflate(network)
    solid.get_classifier = lambda: solid[3]
    return solid


def make_changed(name="test_resnet", rank=2):
    network = make_network(name)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        add_lora_(network, rank)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_added_changes_are_nothing_at_first_and_part_of_the_weights_once_merged(name, tmp_path):
    x = random_cloud(3, voxels=80, extent=8)
    plain = make_network(name)
    before, types = plain(x), [type(module) for module in plain.modules()]
    network = make_changed(name)
    assert torch.equal(network(x), before)
    shake(network)
    after = network(x)
    assert (after - before).abs().max() > 1e-3 * before.abs().max()
    with pytest.raises(InvalidInputError, match="does not rebuild this network"):
        network.save_pretrained(tmp_path / "unmerged")
    assert merge_lora_(network) is None
    assert [type(module) for module in network.modules()] == types
    torch.testing.assert_close(network(x), after, rtol=1e-10, atol=1e-12)
    network.save_pretrained(tmp_path / "merged")
    assert torch.equal(i2p_zoo.from_pretrained(tmp_path / "merged")(x), network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_new_layers_train_as_they_are_and_all_others_by_their_changes(name):
    whole = make_network(name)
    freeze(whole, "io+stats")
    trained = {key for key, parameter in whole.named_parameters() if parameter.requires_grad}
    parts = [(key, module) for key, module in whole.named_modules() if isinstance(module, nn.Linear | i2p_zoo.SparseConv3d)]
    sizes = {key: (len(module.weight), module.weight[0].numel()) for key, module in parts if f"{key}.weight" not in trained}
    network = make_network(name)
    count = add_lora_(network, rank=3)
    got = {key: parameter.numel() for key, parameter in network.named_parameters() if parameter.requires_grad}
    added = {f"{key}.lora_{part}.default.weight" for key in sizes for part in "AB"}
    assert got.keys() == trained | added
    assert sum(got[key] for key in added) == 3 * sum(rows + columns for rows, columns in sizes.values())
    assert count.trained == sum(got.values()) < count.total
    assert not network.frozen_norms, "normalisation takes the clouds' statistics"


def test_changed_network_goes_on_from_a_saved_state_as_if_it_had_not_stopped(tmp_path):
    def make():
        network = make_changed()
        network.settings = network.settings.changed(voxel_size=0.2)
        return network

    def stop(entry):
        if entry.step == 3:
            raise KeyboardInterrupt

    options = {"monitor": shapes(6), "ema": 0.5, "save_every": 2}
    whole, half = make(), make()
    expected = train(whole, shapes(), **options)
    with pytest.raises(KeyboardInterrupt):
        train(half, shapes(), folder=tmp_path, report=stop, **options)
    again = make()
    got = train(again, shapes(), folder=tmp_path, resume=True, **options)
    assert figures(got) == figures(expected)
    assert_same_bits(again, state_of(whole))
    for network in (whole, again):
        merge_lora_(network)
    assert_same_bits(again, state_of(whole))


def test_what_cannot_be_changed_is_told_and_left_as_it_was(monkeypatch):
    network = make_network()
    state, trained = state_of(network), [parameter.requires_grad for parameter in network.parameters()]
    with pytest.raises(InvalidInputError, match=r"`rank` \(=0\) must be at least 1"):
        add_lora_(network, 0)
    with pytest.raises(InvalidInputError, match="no changes by LoRA; `add_lora_` adds them"):
        merge_lora_(network)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        with pytest.raises(MissingExtraError, match=r"i2p-zoo\[lora\]") as caught:
            add_lora_(network)
    assert caught.value.extra == "lora"
    assert_same_bits(network, state)
    assert [parameter.requires_grad for parameter in network.parameters()] == trained
    with pytest.raises(InvalidInputError, match="no convolution or linear layer that LoRA can change"):
        add_lora_(without_others())
    add_lora_(network)
    with pytest.raises(InvalidInputError, match="changes by LoRA already: `merge_lora_` it first"):
        add_lora_(network)


def test_both_classifiers_of_a_distilled_network_train_as_they_are():
    network = i2p_zoo.create_model("deit_tiny_distilled_patch16_224", num_classes=3, stem="point", img_size=32)
    config = lora_config(network, r=2)
    assert set(config.modules_to_save) == {"head", "head_dist"}
    assert not {"head", "head_dist"} & set(config.target_modules)


def test_a_decoder_and_the_new_layers_of_its_encoder_train_as_they_are():
    unet = i2p_zoo.segmentation.create_unet("resnet18", 3, pretrained=False, preset="image2point", decoder_channels=(8,))
    config = lora_config(unet, r=2)
    assert set(config.modules_to_save) == {"decoder", "encoder.act1", "encoder.maxpool"}
    assert not any(name.startswith(("decoder", "encoder.act1", "encoder.maxpool")) for name in config.target_modules)
