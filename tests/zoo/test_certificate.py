"""The certificate: it holds for what inflates exactly, over architectures, axes and sizes, and for nothing else."""

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from torch import nn

from i2p_zoo import (
    Certificate,
    InvalidInputError,
    NotFoundError,
    certify,
    create_model,
    image_to_plane,
    inflate,
)
from i2p_zoo.downloading import HubOptions
from i2p_zoo.experiments.photographs import PHOTOGRAPHS, load_photographs, preprocess, top_classes
from i2p_zoo.networks.timm_models import example_images
from i2p_zoo.zoo.certificate import TOLERANCES, certify_architecture
from i2p_zoo.zoo.sources import load_source
from tests.helpers import random_images, randomise_norms_, relative_error

# Each at a size that its 2D network takes; VGG's classifier reads 7x7 maps, its hidden layer is narrowed to fit in memory.
ARCHITECTURES = {
    "resnet18": (64, {}),
    "resnet34": (64, {}),
    "resnet50": (64, {}),
    "mobilenetv3_small_100": (96, {}),
    "regnety_002": (64, {}),
    "densenet121": (64, {}),
    "vgg16_bn": (224, {"mlp_ratio": 0.01}),
    "efficientnet_b0": (64, {}),
    "tf_efficientnet_b0": (64, {}),
    "dla34": (64, {}),
    "hrnet_w18_small": (64, {}),
    "ghostnet_100": (64, {}),
    "rexnet_100": (64, {}),
    "resnest14d": (64, {}),
    "resnetblur18": (64, {}),
    "inception_v3": (75, {}),
}
ODD = ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "tf_efficientnet_b0", "resnest14d", "resnetblur18"]


def random_network(name, **options):
    torch.manual_seed(0)
    return randomise_norms_(timm.create_model(name, **options)).eval()


def check_certificate(model, net, images):
    certificate = certify(model, net, images)
    assert set(certificate.errors) == {"float32", "float64"}
    assert certificate.errors["float32"] <= 1e-5
    assert certificate.errors["float64"] <= 1e-9
    assert certificate.passed
    assert certificate.agreement == 1.0


@pytest.fixture(scope="module")
def source():
    return random_network("test_resnet", num_classes=20)


@pytest.fixture(scope="module")
def images():
    return random_images(2, 3, 64, 48).float()


def test_tolerances_are_those_of_the_design():
    assert TOLERANCES == {"float32": 1e-5, "float64": 1e-9}


# What must pass.


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_center_inflation_computes_the_2d_function(name):
    size, options = ARCHITECTURES[name]
    model = random_network(name, **options)
    check_certificate(model, inflate(model), random_images(1, 3, size, size).float())


@pytest.mark.parametrize("name", ODD)
def test_center_inflation_holds_for_a_batch_of_odd_size(name):
    model = random_network(name)
    check_certificate(model, inflate(model), random_images(2, 3, 97, 75).float())


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "tf_efficientnet_b0"])
def test_center_inflation_holds_along_each_axis(name, axis):
    model = random_network(name)
    check_certificate(model, inflate(model, axis=axis), random_images(2, 3, 65, 50).float())


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_center_inflation_holds_at_any_depth(source, images, depth):
    check_certificate(source, inflate(source, depth=depth), images)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_copy_inflation_holds_since_a_plane_meets_one_slice_of_each_kernel(source, images, axis):
    check_certificate(source, inflate(source, "copy", axis=axis), images)


def test_average_inflation_holds_where_every_kernel_has_length_one(source, images):
    check_certificate(source, inflate(source, "average", depth=1), images)


def test_feature_maps_are_certified_like_logits(images):
    model = random_network("test_efficientnet", features_only=True)
    check_certificate(model, inflate(model), images)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_network_of_other_channels_is_certified_on_images_of_those(in_chans):
    model = random_network("test_efficientnet", in_chans=in_chans)
    net = inflate(model)
    check_certificate(model, net, None)
    assert certify(model, net, dtypes=["float32"]).images == (1, in_chans, 160, 160)


@pytest.mark.long
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_is_certified_at_its_own_size(name):
    certificate = certify_architecture(name)
    assert certificate.passed, str(certificate)
    assert certificate.images == (1, *timm.get_pretrained_cfg(name).input_size)


def test_real_weights_see_the_same_in_photographs_in_2d_and_3d():
    model, _ = load_source("tf_efficientnet_lite0", "", HubOptions(local_files_only=True), [])
    net = inflate(model)
    photographs = load_photographs()
    assert tuple(photographs) == PHOTOGRAPHS
    batch = preprocess(list(photographs.values()), model)
    with torch.no_grad():
        logits_2d, logits_3d = model(batch), net(image_to_plane(batch))
    assert torch.equal(logits_2d.argmax(1), logits_3d.argmax(1))
    assert (logits_2d.softmax(1) - logits_3d.softmax(1)).abs().max() < 1e-4
    seen = dict(zip(PHOTOGRAPHS, top_classes(logits_3d, 1), strict=True))
    assert seen["coffee"][0][0] == "espresso"
    assert "cat" in seen["chelsea"][0][0]
    check_certificate(model, net, batch)


# What must fail.


def scale_weight(net):
    net.conv1[0].weight[5, 1, 1, 1, 2] *= 1.001


def scale_deep_weight(net):
    net.layer4[0].conv2.weight[0, 1, 1, 1, 0] *= 1.001


def shift_mean(net):
    net.layer2[0].bn1.running_mean[3] += 1e-3


def scale_variance(net):
    net.layer2[0].bn1.running_var *= 1.001


def shift_norm_bias(net):
    net.bn1.bias[0] += 1e-3


def swap_two_filters(net):
    net.conv1[0].weight[[0, 1]] = net.conv1[0].weight[[1, 0]]


def mirror_kernel(net):
    net.conv1[0].weight.copy_(net.conv1[0].weight.flip(3))


def shift_plane(net):
    net.conv1[0].weight.copy_(net.conv1[0].weight.roll(1, 1))


def scale_classifier(net):
    net.fc.weight[4] *= 1.001


CHANGES = [
    scale_weight,
    scale_deep_weight,
    shift_mean,
    scale_variance,
    shift_norm_bias,
    swap_two_filters,
    mirror_kernel,
    shift_plane,
    scale_classifier,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_any_changed_tensor_fails(source, images, change):
    net = inflate(source)
    with torch.no_grad():
        change(net)
    certificate = certify(source, net, images)
    assert certificate.errors["float64"] > 1e-9
    assert not certificate.passed
    assert certificate.max_relative_error == max(certificate.errors.values())


def test_changed_2d_network_fails_too(source, images):
    model = copy.deepcopy(source)
    net = inflate(model)
    with torch.no_grad():
        model.fc.bias[0] += 1e-3
    assert not certify(model, net, images).passed


def test_network_built_for_another_axis_than_its_plane_fails(source, images):
    net = inflate(source, axis="y")
    net.settings = net.settings.changed(axis="z")
    assert not certify(source, net, images).passed


@pytest.mark.parametrize("inflation", ["average", "triangle"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_an_inflation_of_which_a_plane_meets_a_share_fails(name, inflation, images):
    model = random_network(name)
    assert not certify(model, inflate(model, inflation), images).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["both", "2d", "3d"])
def test_value_that_is_not_finite_fails(source, images, where, value):
    model = copy.deepcopy(source)
    net = inflate(model)
    with torch.no_grad():
        if where != "3d":
            model.conv1[0].weight[0, 0, 1, 1] = value
        if where != "2d":
            net.conv1[0].weight[0, 1, 1, 1, 0] = value
    certificate = certify(model, net, images)
    assert not certificate.passed
    assert not certificate.max_relative_error <= 1e-5


@pytest.mark.parametrize("output", range(5))
def test_nan_in_any_one_feature_map_fails(images, output):
    model = random_network("test_resnet", features_only=True)
    net = inflate(model)

    def spoil(module, inputs, maps):
        features = maps[output].features.clone()
        features[0, 0] = float("nan")
        return [*maps[:output], maps[output].derive(features), *maps[output + 1 :]]

    net.register_forward_hook(spoil)
    certificate = certify(model, net, images)
    assert not certificate.passed
    assert not certificate.max_relative_error <= 1e-5


def test_largest_error_is_nan_where_any_is():
    for errors in ({"float32": 1e-7, "float64": float("nan")}, {"float32": float("nan"), "float64": 1e-12}):
        certificate = Certificate(errors, (1, 3, 8, 8), 1.0)
        assert not certificate.passed
        assert not certificate.max_relative_error <= 1e-5


# The figures.


def test_error_is_relative_to_each_images_largest_output_and_the_worst_image_counts():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = inflate(model)
    with torch.no_grad():
        for bias in (model[0].bias, net[0].bias):
            bias.zero_()
        model[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        net[0].weight.copy_(torch.eye(2).view(2, 1, 1, 1, 2))
        net[0].bias[0] = 0.25
    images = torch.zeros(2, 2, 3, 3)
    images[0, 1], images[1, 0] = 4.0, 1.0  # logits (0, 4) and (1, 0) in 2D, (0.25, 4) and (1.25, 0) in 3D
    certificate = certify(model, net, images)
    assert certificate.errors == {"float32": 0.25, "float64": 0.25}
    assert certificate.max_relative_error == 0.25
    assert certificate.agreement == 1.0
    assert certificate.images == (2, 2, 3, 3)


def test_agreement_is_the_fraction_of_images_of_the_same_top_class():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        model[0].bias.zero_()
    net = inflate(model)
    with torch.no_grad():
        net[0].bias[1] = 2.0
    images = torch.zeros(4, 2, 3, 3)
    images[:, 0] = torch.tensor([1.0, 3.0, 4.0, 5.0]).view(4, 1, 1)  # only the first falls behind the bias of 2
    assert certify(model, net, images).agreement == 0.75


def test_outputs_that_are_zero_in_both_agree_and_in_one_do_not():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(model[0].weight), nn.init.zeros_(model[0].bias)
    net = inflate(model)
    images = random_images(1, 3, 8, 8)
    assert certify(model, net, images).errors == {"float32": 0.0, "float64": 0.0}
    with torch.no_grad():
        net[0].bias[0] = 1e-30
    assert not certify(model, net, images).passed


def test_neither_network_is_changed_and_training_mode_makes_no_difference(images):
    model = random_network("test_resnet", drop_rate=0.5, drop_path_rate=0.5)
    net = inflate(model)
    expected = certify(model, net, images).errors
    model.train(), net.train()
    states = [{key: value.clone() for key, value in m.state_dict().items()} for m in (model, net)]
    assert certify(model, net, images).errors == expected
    for network, state in zip((model, net), states, strict=True):
        assert all(module.training for module in network.modules())
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_precision_alone_can_be_measured(source, images, dtype):
    name = str(dtype).removeprefix("torch.")
    assert list(certify(source, inflate(source), images, dtypes=[name]).errors) == [name]


def test_certificate_is_written_as_json_and_as_a_line():
    good = Certificate({"float32": 3e-7, "float64": 2e-15}, (1, 3, 8, 8), 1.0)
    bad = Certificate({"float32": 0.5}, (1, 3, 8, 8), 0.0)
    assert json.loads(json.dumps(good.to_dict())) == {
        "errors": {"float32": 3e-7, "float64": 2e-15},
        "images": [1, 3, 8, 8],
        "agreement": 1.0,
        "live_errors": {},
        "mapped": 0,
        "mismatched": [],
        "unproven": [],
        "seen": 0,
        "unseen": [],
        "unmeasured": [],
        "changed_modules": [],
        "passed": True,
    }
    assert str(good).startswith("passed: relative error float32 3.00e-07 (<= 1e-05), float64 2.00e-15 (<= 1e-09)")
    assert str(bad).startswith("FAILED: relative error float32 5.00e-01")
    assert bad.to_dict()["passed"] is False


@pytest.mark.parametrize("error", [1e-5, 1e-5 * (1 + 1e-9)])
def test_tolerance_itself_still_passes(error):
    assert Certificate({"float32": error}, (1, 3, 8, 8), 1.0).passed == (error == 1e-5)


# Default images, and architectures by name.


def test_default_images_are_noise_of_the_size_that_timm_states(source):
    first, second = example_images(source), example_images(source)
    assert first.shape == (1, 3, 160, 160)
    assert torch.equal(first, second)
    assert first.std() > 0.9
    assert example_images(nn.Sequential(nn.Conv2d(5, 2, 3))).shape == (1, 5, 64, 64)


def test_architecture_is_certified_alike_whatever_the_global_seed_and_leaves_it():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = certify_architecture("test_efficientnet")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert certify_architecture("i2p-test_efficientnet", axis="z") == first
    assert first.passed
    assert certify_architecture("test_efficientnet", axis="x", depth=3).passed


class Rounding(nn.Module):
    """Rounds to float32 on the way, as timm's EvoNorm does."""

    def forward(self, x):
        return x * x.float().square().mean(dim=(2, 3), keepdim=True).to(x.dtype) + x.to(torch.float32).to(x.dtype)


def test_float64_is_measured_in_full_precision_though_the_network_rounds():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Rounding(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    certificate = certify(model, inflate(model), torch.randn(1, 3, 16, 16))
    assert certificate.errors["float64"] < 1e-14
    assert certificate.errors["float32"] > 1e-9
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    assert relative_error(model.double()(images), model[0](images).mean((2, 3))) > 0, "nothing stays patched"
    assert Rounding()(images).dtype == torch.float64


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("name", ["test_vit", "test_coatnet", "edgenext_xx_small"])
def test_network_of_tokens_is_certified_along_each_axis(name, axis):
    assert certify_architecture(name, axis=axis).passed


def test_architecture_that_is_unknown_is_refused():
    with pytest.raises(NotFoundError, match="test_resnet"):
        certify_architecture("test_resnett")


# Refusals.


@pytest.mark.parametrize(
    ("options", "said"),
    [({"stem": "point"}, "stem='point'"), ({"skip_downsamples": 2}, "skip_downsamples=2")],
    ids=["stem", "skip_downsamples"],
)
def test_network_without_its_image_stem_or_strides_is_refused(source, images, options, said):
    with pytest.raises(InvalidInputError, match=said):
        certify(source, create_model("test_resnet", num_classes=20, **options), images)


def test_network_of_another_classifier_is_refused_with_both_shapes(source, images):
    net = inflate(source)
    net.reset_classifier(7)
    with pytest.raises(InvalidInputError, match=r"\(2, 20\).* in 2D, .*\(2, 7\).* in 3D.*before changing the classifier"):
        certify(source, net, images)


def test_what_is_no_network_or_no_image_is_named(source, images):
    net = inflate(source)
    for networks in (("resnet18", net), (source, "i2p-resnet18")):
        with pytest.raises(InvalidInputError, match="got str"):
            certify(*networks, images)
    for bad, found in ((images.numpy(), "ndarray"), (images[0], r"float32 \(3, "), (images.int(), "int32")):
        with pytest.raises(InvalidInputError, match=rf"`images`.*\(B, C, H, W\).*{found}"):
            certify(source, net, bad)


@pytest.mark.parametrize("bad", [["float16"], ["float32", "double"], []], ids=str)
def test_unknown_precision_is_quoted(source, images, bad):
    with pytest.raises(InvalidInputError) as caught:
        certify(source, inflate(source), images, dtypes=bad)
    assert f"got {bad}" in str(caught.value)
