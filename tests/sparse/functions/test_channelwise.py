"""Normalisation, linear layers and dropout, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from timm.layers.layer_scale import LayerScale, LayerScale2d
from timm.layers.norm import GroupNorm, GroupNorm1, LayerNorm, LayerNorm2d, RmsNorm, RmsNorm2d, SimpleNorm2d
from timm.layers.norm_act import BatchNormAct2d, GroupNorm1Act, GroupNormAct, LayerNormAct2d, RmsNormAct2d
from torch import nn
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, SparseTensor, UnsupportedError, image_to_plane
from i2p_zoo.layers.batch_norm_act import SparseBatchNormAct2d
from i2p_zoo.layers.registry import find_builder, is_supported
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import check_as_image, check_channels_last, check_on_samples, first, last, randomised, unequal_cloud

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)
WEIGHT, BIAS = random_images(2, 12, seed=8)


def test_batch_norm_normalises_over_all_pixels_in_training_and_evaluation():
    for training in (True, False):
        for layer in (nn.BatchNorm2d(4).double(), nn.BatchNorm2d(4, affine=False).double()):
            layer.train(training)
            layer.running_mean += 0.3
            check_on_plane(layer, IMAGES, tolerance=1e-11)
    twin = nn.BatchNorm2d(4).double()
    layer = nn.BatchNorm2d(4).double()
    layer(IMAGES)
    twin(image_to_plane(IMAGES))
    assert torch.allclose(twin.running_mean, layer.running_mean, rtol=1e-12)
    assert torch.allclose(twin.running_var, layer.running_var, rtol=1e-12)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), SparseBatchNormAct2d(BatchNormAct2d(4))], ids=["plain", "act"])
def test_a_single_voxel_has_no_variance_to_train_on(layer):
    x = random_cloud(4, voxels=1, dtype=torch.float32)
    before = layer.running_var.clone()
    with pytest.raises(InvalidInputError, match=r"BatchNorm of 4 channels met a single voxel.*skip_downsamples"):
        layer.train()(x)
    assert torch.equal(layer.running_var, before)
    assert layer.eval()(x).features.shape == (1, 4)


def test_prelu_has_one_slope_or_one_a_channel():
    for slopes in (torch.tensor([0.3]).double(), torch.tensor([0.1, 0.2, 0.3, -0.4]).double()):
        check_on_plane(F.prelu, IMAGES, slopes)


def test_dropout2d_drops_whole_channels_of_a_sample():
    x = random_cloud(50, voxels=60, batch_size=3)
    x = x.derive(torch.ones_like(x.features))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = F.dropout2d(x, 0.5, True).features
    for sample in range(3):
        rows = dropped[x.batch_rows == sample]
        assert torch.equal(rows, rows[:1].expand_as(rows))
        assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[x.batch_rows == 0][0], dropped[x.batch_rows == 1][0])
    assert torch.equal(F.dropout2d(x, 0.5, False).features, x.features)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_group_norm_is_that_of_the_image_and_of_each_sample_of_a_cloud(groups):
    images = random_images(3, 12, 5, 4)
    check_on_plane(lambda x: F.group_norm(x, groups), images)
    check_on_plane(lambda x, w, b: F.group_norm(x, groups, w, b), images, WEIGHT, BIAS)
    check_on_plane(lambda x, w: F.group_norm(x, num_groups=groups, weight=w, eps=0.1), images, WEIGHT, axis="x")
    ones = torch.ones_like(WEIGHT)  # for the image: torch 2.8 has no gradient of a bias alone
    check_on_plane(
        lambda x, b: F.group_norm(x, groups, None if isinstance(x, SparseTensor) else ones, b, 0.1), images, BIAS, axis="y"
    )
    check_on_samples(lambda x: F.group_norm(x, groups), unequal_cloud(12))
    check_on_samples(lambda x: F.group_norm(x, groups, WEIGHT, BIAS, 0.1), unequal_cloud(12))


def test_group_norm_does_not_lose_a_small_deviation_from_a_large_mean():
    check_on_plane(lambda x: F.group_norm(x, 2, eps=1e-12), IMAGES * 1e-2 + 1e4, tolerance=1e-8)


PER_VOXEL = {
    "layer_norm": (lambda x: F.layer_norm(x, (4,)),),
    "layer_norm with an affine map": (lambda x, w, b: F.layer_norm(x, [4], w, b, 0.1), WEIGHT[:4], BIAS[:4]),
    "layer_norm with a bias": (lambda x, b: F.layer_norm(x, (4,), bias=b), BIAS[:4]),
    "layer_norm of two dimensions": (lambda x: F.layer_norm(torch.stack([x, x.exp()], -1), (4, 2)),),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)),),
    "rms_norm with a weight": (lambda x, w: F.rms_norm(x, [4], w, 0.1), WEIGHT[:4]),
    "rms_norm by names": (lambda x, w: F.rms_norm(x, normalized_shape=(4,), weight=w, eps=1e-3), WEIGHT[:4]),
    "linear": (F.linear, random_images(6, 4)),
    "linear with a bias": (F.linear, random_images(6, 4), BIAS[:6]),
    "linear to one channel": (lambda x, w: F.linear(x, weight=w).relu(), random_images(1, 4)),
}


@AXES
@pytest.mark.parametrize(("function", "dense"), [(f, d) for f, *d in PER_VOXEL.values()], ids=PER_VOXEL.keys())
def test_what_acts_on_each_voxels_channels_behind_is_that_of_the_image(function, dense, axis):
    check_channels_last(function, IMAGES, *dense, axis=axis)
    check_on_samples(lambda x: function(last(x), *dense), unequal_cloud(4))


MODULES = {
    "LayerNorm2d": LayerNorm2d(4),
    "LayerNorm2d without affine map": LayerNorm2d(4, affine=False),
    "LayerNormAct2d": LayerNormAct2d(4),
    "LayerNormAct2d of SiLU": LayerNormAct2d(4, act_layer=nn.SiLU, eps=1e-2),
    "GroupNorm": GroupNorm(4, 2),
    "GroupNorm1": GroupNorm1(4),
    "GroupNormAct": GroupNormAct(4, 2),
    "GroupNormAct of a group size": GroupNormAct(4, group_size=1, act_layer=nn.SiLU),
    "GroupNorm1Act": GroupNorm1Act(4),
    "torch's GroupNorm": nn.GroupNorm(4, 4, affine=False),
    "RmsNorm2d": RmsNorm2d(4),
    "RmsNorm2d without affine map": RmsNorm2d(4, affine=False),
    "RmsNormAct2d": RmsNormAct2d(4),
    "SimpleNorm2d": SimpleNorm2d(4),
    "SimpleNorm2d without affine map": SimpleNorm2d(4, affine=False),
    "GlobalResponseNorm": GlobalResponseNorm(4, channels_last=False),
    "LayerScale2d": LayerScale2d(4),
    "LayerScale2d in place": LayerScale2d(4, inplace=True),
}
MODULES_BEHIND = {
    "LayerNorm": LayerNorm(4),
    "torch's LayerNorm": nn.LayerNorm(4, bias=False),
    "RmsNorm": RmsNorm(4),
    "torch's RMSNorm": nn.RMSNorm(4),
    "GlobalResponseNorm": GlobalResponseNorm(4),
    "LayerScale": LayerScale(4),
    "LayerScale in place": LayerScale(4, inplace=True),
    "Linear": nn.Linear(4, 3),
}


@AXES
@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
def test_a_module_runs_as_it_is_and_gives_what_it_gives_of_the_image(module, axis):
    assert is_supported(module)
    assert find_builder(module) is None
    randomised(module.double())
    check_on_plane(lambda x: module(x * 1), IMAGES, axis=axis)
    check_on_samples(lambda x: module(x * 1), unequal_cloud(4))


@AXES
@pytest.mark.parametrize("module", MODULES_BEHIND.values(), ids=MODULES_BEHIND.keys())
def test_a_module_of_channels_behind_runs_as_it_is_too(module, axis):
    assert is_supported(module)
    assert find_builder(module) is None
    randomised(module.double())
    check_channels_last(lambda x: module(x * 1), IMAGES, axis=axis)
    check_on_samples(lambda x: first(module(last(x * 1))), unequal_cloud(4))


def test_the_parameters_of_normalisation_get_the_gradients_of_the_image():
    for module in (GroupNormAct(4, 2), LayerNorm2d(4), RmsNorm2d(4), GlobalResponseNorm(4, channels_last=False)):
        parameters = list(randomised(module.double()).parameters())
        losses = [module(x) * random_images(1, 4, 1, 1) for x in (image_to_plane(IMAGES), IMAGES)]
        found, truth = (torch.autograd.grad(loss.square().sum((1, 2, 3)).sum(), parameters) for loss in losses)
        for gradient, true_gradient in zip(found, truth, strict=True):
            assert relative_error(gradient, true_gradient) < 1e-11


REFUSED = {
    "layer_norm": (lambda x: F.layer_norm(x, (4,)), r"`layer_norm` over .*\(4,\).*after a permutation"),
    "layer_norm of the image": (lambda x: F.layer_norm(x, (4, 6, 5)), r"\(4, 6, 5\).*only over channels"),
    "layer_norm of other channels": (lambda x: F.layer_norm(last(x), (5,)), r"\(5,\).*\(2, 6, 5, 4\)"),
    "layer_norm of columns and channels": (lambda x: F.layer_norm(last(x), (5, 4)), r"\(5, 4\)"),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)), "`rms_norm` .*after a permutation"),
    "rms_norm of columns and channels": (lambda x: F.rms_norm(last(x), (5, 4)), r"`rms_norm` .*\(5, 4\)"),
    "linear": (lambda x: F.linear(x, torch.ones(3, 4).double()), "`linear` .*after a permutation"),
    "linear of other channels": (lambda x: F.linear(last(x), torch.ones(3, 5).double()), r"`linear` .*\(5,\)"),
    "batch_norm behind": (lambda x: F.batch_norm(last(x), None, None, training=True), "`batch_norm` .*needs channels before"),
    "prelu behind": (lambda x: F.prelu(last(x), torch.ones(1).double()), "`prelu` .*needs channels before"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_normalisation_over_anything_but_channels_where_they_stand_is_refused(call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(image_to_plane(IMAGES))


OF_TOKENS = {
    "layer_norm of rows": (lambda x: F.layer_norm(x, (5,)), "`layer_norm` .*only over channels"),
    "linear of rows": (lambda x: F.linear(x, torch.ones(3, 5).double()), "`linear` .*only over channels"),
    "group_norm behind": (lambda x: F.group_norm(last(x), 2), "`group_norm` .*it needs channels before"),
    "dropout2d behind, switched off": (lambda x: F.dropout2d(last(x), 0.5, False), "`dropout2d` .*needs channels before"),
}


@pytest.mark.parametrize(("call", "message"), OF_TOKENS.values(), ids=OF_TOKENS.keys())
def test_normalisation_that_sites_cannot_express_is_the_images_on_tokens(call, message):
    check_as_image(call, IMAGES)
    with pytest.raises(UnsupportedError, match=message):
        call(random_cloud(4))


def test_groups_that_do_not_divide_the_channels_are_quoted():
    with pytest.raises(InvalidInputError, match="`group_norm` of 4 channels in 3 groups"):
        F.group_norm(image_to_plane(IMAGES), 3)


BEHIND_A_PADDING = {
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "group_norm": lambda x: F.group_norm(x, 2),
    "layer_norm": lambda x: first(F.layer_norm(last(x), (4,), None, BIAS[:4])),
}


@pytest.mark.parametrize("function", BEHIND_A_PADDING.values(), ids=BEHIND_A_PADDING.keys())
def test_normalisation_behind_a_padding_counts_its_zeros_and_is_refused_for_a_cloud(function):
    check_as_image(lambda x: function(F.pad(x, (1, 1, 1, 1))), IMAGES)
    with pytest.raises(UnsupportedError, match="behind Padding"):
        function(F.pad(random_cloud(4), (1, 1, 1, 1)))


def test_group_norm_of_half_precision_does_not_overflow():
    images = (random_images(1, 4, 30, 30) * 20).half()
    found = F.group_norm(image_to_plane(images), 2).dense()[:, :, 0]
    assert relative_error(found, F.group_norm(images, 2)) < 1e-2
