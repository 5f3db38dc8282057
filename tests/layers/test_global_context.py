"""Global context attention against timm's on images, and on each sample of a cloud."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from timm.layers.global_context import GlobalContext
from torch import nn
from torch.nn import functional as F

from i2p_zoo import CoordinateMismatchError, SparseConv3d, UnsupportedError, image_to_plane
from i2p_zoo.layers.global_context import SparseGlobalContext
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import check_on_samples, inflated, randomised, unequal_cloud

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(3, 8, 6, 5)

OPTIONS = {
    f"{'attention' if attn else 'mean'}, {'added' if add else ''}{' and ' * (add and scale)}{'scaled' if scale else ''}": {
        "use_attn": attn,
        "fuse_add": add,
        "fuse_scale": scale,
    }
    for attn, (add, scale) in product((True, False), ((False, True), (True, False), (True, True)))
}
OPTIONS["neither added nor scaled"] = {"fuse_scale": False}
OPTIONS["other parts"] = {"fuse_add": True, "act_layer": nn.SiLU, "gate_layer": "hard_sigmoid", "rd_channels": 3}
BY_OPTIONS = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def made(options):
    return randomised(GlobalContext(8, **{"rd_channels": 4, **options}).double())


@AXES
@BY_OPTIONS
def test_global_context_of_a_plane_is_that_of_the_image(options, axis):
    leaf = made(options)
    layer = inflated(leaf, axis)
    assert type(layer) is SparseGlobalContext
    check_on_plane(layer, IMAGES, axis=axis, of_image=leaf)


@BY_OPTIONS
def test_global_context_of_a_cloud_is_that_of_each_sample(options):
    leaf = made(options)
    check_on_samples(inflated(leaf), unequal_cloud(8), of_image=leaf)


@pytest.mark.parametrize("options", [o for o in OPTIONS.values() if o != {"fuse_scale": False}], ids=str)
def test_parameters_keep_their_names_and_get_the_gradients_of_the_2d_layer(options):
    leaf = made(options)
    layer = inflated(leaf)
    assert list(layer.state_dict()) == list(leaf.state_dict())
    assert all(isinstance(part, SparseConv3d) for name, part in layer.named_modules() if name.endswith(("fc1", "fc2", "attn")))
    layer(image_to_plane(IMAGES)).square().sum((1, 2, 3)).sum().backward()
    leaf(IMAGES).square().sum().backward()
    for (name, found), truth in zip(layer.named_parameters(), leaf.parameters(), strict=True):
        if name == "conv_attn.bias":  # the softmax takes no notice of it
            assert max(found.grad.abs().max(), truth.grad.abs().max()) < 1e-10
            continue
        gradient = found.grad[:, 0, 0, 0, :, None, None] if found.ndim == 5 else found.grad
        assert relative_error(gradient, truth.grad) < 1e-10


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_attention_neither_overflows_nor_vanishes(scale):
    leaf = made({"use_attn": True, "fuse_add": True})
    check_on_plane(inflated(leaf), IMAGES * scale, of_image=leaf)
    check_on_samples(inflated(leaf), unequal_cloud(8).derive(unequal_cloud(8).features * scale), of_image=leaf)


def test_a_sample_without_voxels_leaves_the_others_as_they_are():
    layer = inflated(made({"use_attn": True}))
    x = random_cloud(8, voxels=30, batch_size=1)
    more = type(x)(x.features, x.coords, batch_size=3)
    assert relative_error(layer(more).features, layer(x).features) < 1e-12


def test_global_context_behind_a_padding_is_refused_for_a_cloud():
    for attention in (True, False):
        with pytest.raises((UnsupportedError, CoordinateMismatchError)):
            inflated(made({"use_attn": attention}))(F.pad(random_cloud(8), (1, 1)))


def test_hooks_and_training_mode_are_kept():
    leaf = GlobalContext(8).eval()
    calls = []
    leaf.register_forward_hook(lambda *_: calls.append(1))
    layer = inflated(leaf)
    layer(random_cloud(8, dtype=torch.float32))
    assert calls == [1]
    assert not any(part.training for part in layer.modules())
