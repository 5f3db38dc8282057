"""LoRA on any network: what trains, what it computes, and that merging gives the network again."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune import lora_config
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
