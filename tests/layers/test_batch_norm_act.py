"""BatchNormAct2d on sparse tensors: timm's own forward is the truth, whether or not it runs as one operation."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from i2p_zoo import SparseTensor, UnsupportedError
from i2p_zoo.layers import batch_norm_act
from i2p_zoo.layers.batch_norm_act import SparseBatchNormAct2d
from i2p_zoo.layers.registry import find_builder
from i2p_zoo.sparse.batch_norm import synchronize_norms
from tests.helpers import random_cloud, relative_error, seeded

LEAVES = {
    "relu": lambda: BatchNormAct2d(6),
    "relu6": lambda: BatchNormAct2d(6, act_layer=nn.ReLU6, eps=1e-3),
    "no activation": lambda: BatchNormAct2d(6, apply_act=False),
    "average of all batches": lambda: BatchNormAct2d(6, momentum=None),
    "no statistics kept": lambda: BatchNormAct2d(6, track_running_stats=False),
    "no weight": lambda: BatchNormAct2d(6, affine=False),
    "silu": lambda: BatchNormAct2d(6, act_layer=nn.SiLU),
    "dropout": lambda: BatchNormAct2d(6, drop_layer=nn.Dropout),
}
ONE_OPERATION = ("relu", "relu6", "no activation", "average of all batches", "no statistics kept", "no weight")


def make(name, dtype=torch.float64):
    leaf = LEAVES[name]().to(dtype)
    with torch.no_grad():
        for tensor in (*leaf.parameters(), *leaf.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=seeded(1)) + 0.5)
    layer = find_builder(leaf)(copy.deepcopy(leaf), axis="z", depth=None, inflation="center")
    assert type(layer) is SparseBatchNormAct2d
    return leaf, layer


@pytest.fixture
def operations(monkeypatch):
    """The calls of the one operation."""
    calls = []
    original = batch_norm_act.normalize_and_clamp
    monkeypatch.setattr(batch_norm_act, "normalize_and_clamp", lambda *a: calls.append(a) or original(*a))
    return calls


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", LEAVES)
def test_layer_is_timms(name, training, operations):
    leaf, layer = make(name)
    assert layer.state_dict().keys() == leaf.state_dict().keys()
    leaf.train(training), layer.train(training)
    for batch in range(3):
        x = random_cloud(6, voxels=200, seed=batch)
        rows = [x.features.clone().requires_grad_() for _ in range(2)]
        with torch.random.fork_rng():
            torch.manual_seed(batch)
            out = layer(x.derive(rows[0])).features
            torch.manual_seed(batch)
            expected = leaf(rows[1][:, :, None, None])[:, :, 0, 0]  # each voxel an image of one pixel
        assert relative_error(out.detach(), expected.detach()) < 1e-12
        for found, truth in zip(layer.buffers(), leaf.buffers(), strict=True):
            torch.testing.assert_close(found, truth, rtol=1e-12, atol=0)
        upstream = torch.randn(out.shape, generator=seeded(9), dtype=out.dtype)
        found = torch.autograd.grad(out, [rows[0], *layer.parameters()], upstream)
        for gradient, truth in zip(found, torch.autograd.grad(expected, [rows[1], *leaf.parameters()], upstream), strict=True):
            assert relative_error(gradient, truth) < 1e-11
    assert len(operations) == (3 if name in ONE_OPERATION else 0)


def test_features_given_are_left_as_they_are():
    _, layer = make("relu6")
    x = random_cloud(6)
    before = x.features.clone()
    layer(x)
    assert torch.equal(x.features, before)


def test_hooks_on_the_activation_run(operations):
    _, layer = make("relu6")
    seen = []
    layer.act.register_forward_hook(lambda module, given, result: seen.append(result))
    out = layer(random_cloud(6))
    assert isinstance(seen[0], SparseTensor)
    assert seen[0].features is out.features
    assert not operations


def test_hooks_on_all_modules_and_an_activations_own_forward_run(operations):
    _, layer = make("relu6")
    seen = []
    with nn.modules.module.register_module_forward_hook(lambda module, given, result: seen.append(type(module))):
        layer(random_cloud(6))
    assert nn.ReLU6 in seen
    layer.act.forward = lambda x: seen.append("own") or x
    layer(random_cloud(6))
    assert seen[-1] == "own"
    assert not operations


def test_what_a_leaf_carries_besides_stays():
    leaf = LEAVES["relu"]().eval()
    leaf.note = "mine"
    leaf.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update({prefix + "more": torch.ones(1)}))
    layer = SparseBatchNormAct2d(leaf)
    assert (layer.note, layer.training) == ("mine", False)
    assert layer.state_dict().keys() == leaf.state_dict().keys() >= {"more"}
    layer.register_forward_hook(lambda *_: None)
    assert not leaf._forward_hooks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 7, 300])
def test_another_number_of_channels_is_refused_as_by_timm(channels, training):
    _, layer = make("relu")
    before = {key: value.clone() for key, value in layer.state_dict().items() if "num_batches" not in key}
    with pytest.raises(RuntimeError, match=r"should contain|must match"):
        layer.train(training)(random_cloud(channels))
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())


def test_a_single_voxel_is_refused_in_training_and_normalised_in_evaluation():
    leaf, layer = make("relu")
    x = random_cloud(6, voxels=1)
    with pytest.raises(ValueError, match="single voxel in training"):
        layer.train()(x)
    expected = leaf.eval()(x.features[:, :, None, None])[:, :, 0, 0]
    assert relative_error(layer.eval()(x).features.detach(), expected.detach()) < 1e-12


def test_half_precision_and_synchronised_training_run_as_before(operations):
    _, layer = make("relu", torch.float32)
    x = random_cloud(6, dtype=torch.float32)
    whole = layer(x).features
    assert operations
    operations.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x.derive(x.features.bfloat16()))
    with pytest.raises(ValueError, match="process group"), synchronize_norms():
        layer(x)
    assert not operations
    assert relative_error(layer.bfloat16().eval()(x.derive(x.features.bfloat16())).features.float(), whole) < 1


def test_padding_is_refused_as_by_batch_norm():
    _, layer = make("relu")
    padded = nn.functional.pad(random_cloud(6), (1, 1, 1, 1))
    with pytest.raises(UnsupportedError, match="batch_norm"):
        layer(padded)


def test_a_frozen_layer_gets_no_gradient():
    _, layer = make("relu")
    layer.requires_grad_(False)
    x = random_cloud(6)
    features = x.features.requires_grad_()
    layer(x.derive(features)).features.sum().backward()
    assert features.grad is not None
    assert layer.weight.grad is None
