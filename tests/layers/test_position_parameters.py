"""Parameters that tell tokens apart: those that timm names so, in each sort of transformer, and no others."""

from __future__ import annotations

import re

import pytest
import torch

import i2p_zoo
from i2p_zoo.layers.position_parameters import find_position_parameters
from tests.helpers import random_cloud

NAMED = {  # as timm's source names them
    r"(^|\.)(pos_embed(_\d)?|patch_pos|pixel_pos)$": "position table",
    r"(^|\.)(cls_token|reg_token|dist_token)(_\d)?$": "extra token",
    r"\.(relative_position_bias_table|attention_biases|cpb_mlp\.\d\.(weight|bias))$": "relative biases",
}
NETWORKS = {
    **{name: {"depth": 2} for name in ("test_vit", "test_vit4", "deit3_small_patch16_224", "vit_small_patch16_dinov3")},
    **{name: {"depths": (2, 2, 2, 2)} for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256")},
    **{name: {} for name in ("levit_128s", "maxvit_tiny_tf_224", "mixer_s32_224", "mobilevit_xxs", "test_resnet")},
    **{name: {} for name in ("crossvit_tiny_240", "tnt_s_patch16_224", "tnt_s_legacy_patch16_224")},
}


def expected_sorts(model):
    names = [name for name, _ in model.named_parameters()]
    sorts = {name: sort for name in names for pattern, sort in NAMED.items() if re.search(pattern, name)}
    return {name: sorts[name] for name in names if name in sorts}


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_those_that_timm_names(name):
    model = i2p_zoo.create_model(name, num_classes=2, **NETWORKS[name])
    expected = expected_sorts(model)
    assert find_position_parameters(model) == expected
    reasons = {record.key: record.reason for record in model.report.records if record.rule == "copied" and record.reason}
    assert {key: reason.partition(",")[0] for key, reason in reasons.items()} == expected
    assert all(reason.endswith(" z") for reason in reasons.values() if reason != "extra token")
    assert all(f"{key} " in model.report.table() for key in expected)


def test_finding_them_leaves_the_network_as_it_was():
    model = i2p_zoo.create_model("levit_128s", num_classes=2).train()
    model.head.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        assert find_position_parameters(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith("head.")
    }
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_another_axis_is_named_and_a_gate_computed_from_the_cloud_is_no_table():
    model = i2p_zoo.create_model("test_vit", axis="y", num_classes=2)
    assert {r.key: r.reason for r in model.report.records}["pos_embed"].endswith(" y")
    gated = i2p_zoo.create_model("gcresnet50t", num_classes=2)  # its context is added to every voxel
    assert find_position_parameters(gated) == {}
    assert gated(random_cloud(3, dtype=torch.float32)).shape == (2, 2)


class WithinPatches(torch.nn.Module):
    """A user's own network, which tells the pixels of each patch apart and scales their channels."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.inner = torch.nn.Parameter(torch.zeros(1, 6, 4, 4))
        self.scale = torch.nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x):
        x = torch.nn.functional.unfold(self.embed(x), 4, stride=4).transpose(1, 2)
        batch, patches, _ = x.shape
        x = (x.reshape(batch * patches, 6, 4, 4) + self.inner) * self.scale
        return x.reshape(batch, patches, -1).mean(1)


def test_a_table_over_the_places_of_a_patch_is_a_position_table():
    model = i2p_zoo.inflate(WithinPatches(), canvas=(8, 8))
    assert find_position_parameters(model) == {"inner": "position table"}


def test_a_network_without_parameters_has_none():
    assert i2p_zoo.inflate(torch.nn.Sequential(torch.nn.MaxPool2d(2)), canvas=(8, 8)).report is not None
