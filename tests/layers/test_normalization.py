"""Normalisation by a statistic of each sample, on images and clouds, and the norm on the logits of a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers.evo_norm import EvoNorm2dS0, EvoNorm2dS0a
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from torch import Tensor, nn

from i2p_zoo import UnsupportedError, image_to_plane
from i2p_zoo.finetune import evaluate, freeze, train
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure_
from i2p_zoo.layers import normalization
from i2p_zoo.layers.normalization import SparseEvoNorm, SparseFilterResponseNorm
from i2p_zoo.networks.timm_models import create_timm_model
from tests.finetune.conftest import shapes
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.networks.conftest import make_papers_network
from tests.oracles import check_on_samples, inflated, last, randomised, unequal_cloud

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(3, 8, 6, 5)

EVO_NORMS = {
    "S0": lambda: EvoNorm2dS0(8, groups=2),
    "S0 of one group": lambda: EvoNorm2dS0(8, groups=1),
    "S0 of a group a channel": lambda: EvoNorm2dS0(8, groups=8),
    "S0 of a group size": lambda: EvoNorm2dS0(8, group_size=4, eps=0.1),
    "S0 without activation": lambda: EvoNorm2dS0(8, groups=2, apply_act=False),
    "S0a": lambda: EvoNorm2dS0a(8, groups=2),
    "S0a of a group size": lambda: EvoNorm2dS0a(8, group_size=2, eps=0.1),
    "S0a without activation": lambda: EvoNorm2dS0a(8, groups=4, apply_act=False),
}
FILTER_RESPONSE_NORMS = {
    "thresholded": lambda: FilterResponseNormTlu2d(8),
    "thresholded, another eps": lambda: FilterResponseNormTlu2d(8, eps=0.1),
    "not thresholded": lambda: FilterResponseNormTlu2d(8, apply_act=False),
    "activated": lambda: FilterResponseNormAct2d(8),
    "activated by SiLU": lambda: FilterResponseNormAct2d(8, act_layer=nn.SiLU, inplace=False),
    "activated in place": lambda: FilterResponseNormAct2d(8, inplace=True, eps=0.1),
    "not activated": lambda: FilterResponseNormAct2d(8, apply_act=False),
}
NORMS = {**EVO_NORMS, **FILTER_RESPONSE_NORMS}
ALL_NORMS = pytest.mark.parametrize("make", NORMS.values(), ids=NORMS.keys())


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Lets timm's layers, which sum in float32 whatever they are given, be oracles in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


@AXES
@ALL_NORMS
def test_normalisation_of_a_plane_is_that_of_the_image(make, axis):
    leaf = randomised(make().double())
    layer = inflated(leaf, axis)
    assert type(layer) is (SparseEvoNorm if isinstance(leaf, EvoNorm2dS0) else SparseFilterResponseNorm)
    check_on_plane(layer, IMAGES, axis=axis, of_image=leaf)


@ALL_NORMS
def test_normalisation_of_a_cloud_is_that_of_each_sample(make):
    leaf = randomised(make().double())
    check_on_samples(inflated(leaf), unequal_cloud(8), of_image=leaf)


@ALL_NORMS
def test_parameters_keep_their_names_and_get_the_gradients_of_the_2d_layer(make):
    leaf = randomised(make().double())
    layer = inflated(leaf)
    assert dict(layer.named_parameters()).keys() == dict(leaf.named_parameters()).keys()
    for key, value in leaf.state_dict().items():
        assert torch.equal(layer.state_dict()[key], value)
    weights = random_images(1, 8, 1, 1)
    (layer(image_to_plane(IMAGES)).square() * weights).sum((1, 2, 3)).sum().backward()
    (leaf(IMAGES).square() * weights).sum().backward()
    for (name, found), (other, truth) in zip(layer.named_parameters(), leaf.named_parameters(), strict=True):
        assert name == other
        if truth.grad is None:
            assert found.grad is None
        else:
            assert relative_error(found.grad, truth.grad) < 1e-11


@ALL_NORMS
def test_half_precision_is_summed_in_float32(make, monkeypatch):
    monkeypatch.undo()
    leaf = randomised(make().half())
    images = (IMAGES * 300).half()  # squares beyond float16
    out = inflated(leaf)(image_to_plane(images))
    assert out.dtype == torch.float16
    assert relative_error(out.dense()[:, :, 0], leaf.double()(images.double())) < 1e-2


@ALL_NORMS
def test_a_sample_of_one_voxel_or_of_equal_ones_stays_finite(make):
    layer = inflated(randomised(make().double()))
    x = random_cloud(8, voxels=1, batch_size=1)
    for features in (x.features, torch.ones_like(x.features), torch.zeros_like(x.features)):
        features = features.clone().requires_grad_()
        out = layer(x.derive(features))
        out.features.sum().backward()
        assert out.features.isfinite().all()
        assert features.grad.isfinite().all()


@ALL_NORMS
def test_normalisation_of_clouds_behind_a_padding_or_of_channels_behind_is_refused(make):
    leaf = randomised(make().double())
    layer = inflated(leaf)
    if not (isinstance(leaf, EvoNorm2dS0) and leaf.v is None and type(leaf) is EvoNorm2dS0):  # a plain affine map
        with pytest.raises(UnsupportedError, match="behind Padding"):
            layer(nn.functional.pad(random_cloud(8), (1, 1)))
    with pytest.raises(UnsupportedError):
        layer(last(random_cloud(8)))


@pytest.mark.parametrize(
    "name", ["convnext_zepto_rms", "convnext_atto_rms", "convnextv2_atto", "resnetv2_50d_evos", "resnetv2_50d_frn", "resnet18"]
)
def test_every_layer_that_timm_calls_a_norm_is_one(name):
    model = inflate_structure_(create_timm_model(name, structure=True), Settings())
    called = [
        module for module in model.modules() if "Norm" in type(module).__name__ and list(module.parameters(recurse=False))
    ]
    assert called
    assert all(isinstance(module, normalization.NORMS) for module in called)


def test_new_classifier_has_its_norm_too():
    model = make_papers_network("resnet18")
    model.reset_classifier(9)
    assert model.fc.norm.num_features == 9
    assert model([np.random.default_rng(0).random((50, 3))]).shape == (1, 9)
    model.reset_classifier(0)
    assert model([np.random.default_rng(0).random((50, 3))]).shape == (1, 512)


@pytest.mark.parametrize("mode", ["io", "io+bn", "all"])
def test_each_mode_trains_the_norm_on_the_logits_with_the_classifier(mode):
    model = make_papers_network("resnet18", num_classes=3).float()
    freeze(model, mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, shapes(), steps=2, batch_size=8)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"conv1.weight", "fc.weight", "fc.norm.weight", "fc.norm.running_mean"} <= changed
    assert ("bn1.running_mean" in changed) is (mode != "io")
    assert 0 <= evaluate(model, shapes()).top1 <= 1
