"""Networks cut to two blocks a stage: what goes, what stays, and that weights cut off are never drawn."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from conversion.cutting import create_cut_model, cut_stages_
from i2p_zoo.networks.timm_models import create_timm_model, example_images


class Part(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width))


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.part = Part(width)


def test_two_of_each_kind_of_block_stay():
    widths = [4, 4, 4, 8, 4, 4, 4, 4]
    blocks = [Block(width) for width in widths]
    model = nn.Sequential(nn.Sequential(*blocks))
    cut_stages_(model)
    kept = list(model[0].children())
    assert [any(child is block for child in kept) for block in blocks] == [True, True, False, True, False, False, False, False]
    assert list(model[0]._modules) == ["0", "1", "2"]


def test_lesser_modules_and_what_has_names_stay():
    branches = nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])
    named = nn.ModuleDict({name: Block() for name in "abc"})
    model = nn.ModuleDict({"branches": branches, "named": named})
    cut_stages_(model)
    assert (len(branches), len(named)) == (4, 3)


DEPTHS = {
    "vit_tiny_patch16_224": lambda net: [net.blocks],
    "swin_tiny_patch4_window7_224": lambda net: [stage.blocks for stage in net.layers],
    "resnet50": lambda net: [net.layer1, net.layer2, net.layer3, net.layer4],
    "regnetx_002": lambda net: [list(stage.children()) for stage in (net.s1, net.s2, net.s3, net.s4)],  # no lists
}


@pytest.mark.parametrize(("name", "stages"), DEPTHS.items(), ids=DEPTHS)
def test_stages_of_timm_are_cut_and_compute(name, stages):
    whole, model = timm.create_model(name), create_cut_model(name)
    lengths = [len(stage) for stage in stages(model)]
    # a first block that halves the resolution has another shape than those after it
    assert lengths == [min(len(stage), 2 if name.endswith("224") else 3) for stage in stages(whole)]
    with torch.no_grad():
        assert model(example_images(model)).std() > 1e-3
    for key, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), key
        assert parameter.numel() == 1 or parameter.std() > 0.01, key


def test_the_same_network_is_cut_each_time_and_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (create_cut_model("vit_tiny_patch16_224").state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_structure_is_cut_as_the_network_is():
    skeleton = create_timm_model("swin_tiny_patch4_window7_224", structure=True)
    cut_stages_(skeleton)
    expected = {key: tensor.shape for key, tensor in create_cut_model("swin_tiny_patch4_window7_224").state_dict().items()}
    assert {key: tensor.shape for key, tensor in skeleton.state_dict().items()} == expected
