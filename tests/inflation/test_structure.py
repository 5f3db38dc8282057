"""The structure of an inflated network: layers, modes and hooks of its 2D one, and refusals that name every offender."""

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
from timm.layers import BlurPool2d
from torch import nn

from i2p_zoo import InvalidInputError, UnsupportedError, create_model, image_to_plane, inflate
from i2p_zoo.choices import AXES
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure, materialize_, replace_leaves
from i2p_zoo.wording import count_of
from tests.helpers import plane_values, random_cloud, random_images, relative_error, small_net


@pytest.mark.parametrize("axis", AXES)
def test_kernel_length_is_its_larger_side_or_the_depth_where_that_is_less(axis):
    model = nn.Sequential(nn.Conv2d(3, 2, 7), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, (1, 5)), nn.Conv2d(2, 2, 1))
    for depth, lengths in ((None, (7, 3, 5, 1)), (5, (5, 3, 5, 1)), (3, (3, 3, 3, 1)), (1, (1, 1, 1, 1))):
        net = inflate(model, axis=axis, depth=depth)
        assert tuple(layer.weight.shape[1 + "zyx".index(axis)] for layer in net) == lengths
        assert (net.settings.axis, net.settings.depth) == (axis, depth)


def test_each_module_keeps_its_training_mode():
    model = timm.create_model("test_resnet").train()
    for name in ("conv1", "bn1", "layer3"):
        model.get_submodule(name).eval()
    model.layer1[0].conv1.eval()
    expected = {name: module.training for name, module in model.named_modules()}
    assert {name: module.training for name, module in inflate(model).named_modules()} == expected
    assert not any(module.training for module in inflate(model.eval()).modules())


def test_hooks_of_leaves_and_containers_run_on_the_3d_network():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.ReLU()).eval()
    calls = []
    model[0][0].register_forward_pre_hook(lambda module, inputs: calls.append(("before", module, inputs[0])))
    model[0][0].register_forward_hook(lambda module, inputs, output: calls.append(("after", module, output)))
    model[0][0].register_forward_hook(lambda module, inputs, kwargs, output: output.derive(-output.features), with_kwargs=True)
    model[0].register_forward_hook(lambda module, inputs, output: calls.append(("container", module, output)))
    net = inflate(model)
    x = random_cloud(3, dtype=torch.float32)
    net(x)
    assert [(word, module) for word, module, _ in calls] == [
        ("before", net[0][0]),
        ("after", net[0][0]),
        ("container", net[0]),
    ]
    assert torch.equal(calls[0][2].features, x.features)
    expected = net[0][1](calls[1][2].derive(-calls[1][2].features))  # the third hook's answer went on
    assert torch.equal(calls[2][2].features, expected.features)


def test_hook_that_must_always_run_does_so_when_the_layer_fails():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("called"), always_call=True)
    with pytest.raises(InvalidInputError, match="takes 3 channels"):
        inflate(model)(random_cloud(5, dtype=torch.float32))
    assert calls == ["called"]


def test_non_persistent_buffers_come_along_without_a_key():
    pool = BlurPool2d(4)
    net = inflate(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool))
    buffers = dict(net.named_buffers())
    assert torch.equal(buffers["1.filt"], pool.filt)
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


NORM_OPTIONS = [{"affine": False}, {"track_running_stats": False}, {"affine": False, "momentum": None}]


@pytest.mark.parametrize("options", NORM_OPTIONS, ids=str)
def test_batch_norm_without_some_of_its_tensors_is_kept(options):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, **options)).double()
    images = random_images(2, 3, 6, 5)
    assert relative_error(plane_values(inflate(model)(image_to_plane(images))), model(images)) < 1e-12


def test_module_used_twice_stays_one_module():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), layer).double()
    net = inflate(model)
    assert net[0] is net[2]
    assert list(net.state_dict()) == list(model.state_dict())
    assert len(list(net.parameters())) == 2
    images = random_images(1, 4, 6, 5)
    assert relative_error(plane_values(net(image_to_plane(images))), model(images)) < 1e-12


# Refusals.


def named_in(message):
    """Name and owned tensors of each module that a refusal lists."""
    lines = re.findall(r"^  (.+?): \S+ owns (.*)$", message, re.MULTILINE)
    return {name: re.split(", | and ", owned) for name, owned in lines}


def test_every_offending_module_and_its_tensors_are_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.GRU(4, 4), nn.ReLU()), nn.Bilinear(4, 4, 2), nn.Linear(4, 4))
    with pytest.raises(UnsupportedError) as caught:
        inflate(model)
    message = str(caught.value)
    assert named_in(message) == {
        "1.0": ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"],
        "2": ["weight", "bias"],
    }
    assert f"Sequential has {count_of(2, 'module')} with no" in message
    assert "torch.nn.modules.conv.Conv2d" in message
    assert "@i2p_zoo.replaces(type)" in message


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "test_coatnet"])
def test_transformers_are_inflated_and_give_the_outputs_of_the_2d_network_on_images(name):
    torch.manual_seed(0)
    model = timm.create_model(name).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    net = inflate(model)
    assert {rule for rule, count in net.report.counts().items() if count} == {"inflated", "copied"}
    images = random_images(2, 3, 160, 160)
    with torch.no_grad():
        assert relative_error(net(image_to_plane(images)), model(images)) < 1e-12


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_is_not_zeros_is_refused_by_name(mode):
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "deep": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode))})
    with pytest.raises(UnsupportedError, match=rf"has 1 module with.*\n  deep\.0: Conv2d with padding_mode='{mode}'"):
        inflate(model)


def test_subclass_of_a_known_leaf_is_refused_since_it_may_compute_something_else():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(UnsupportedError, match=r"1: .*Doubled owns weight and bias"):
        inflate(nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(4, 4, 1)))


def test_refusal_names_the_root_where_that_is_the_offender():
    with pytest.raises(UnsupportedError, match=r"\(the model itself\): torch.*Bilinear owns weight"):
        inflate(nn.Bilinear(4, 4, 4))


@pytest.mark.parametrize(("bad", "kind"), [("resnet18", "str"), ({"weight": torch.zeros(1)}, "dict"), (None, "NoneType")])
def test_what_is_no_network_is_named(bad, kind):
    with pytest.raises(InvalidInputError, match=rf"timm\.create_model.*got {kind}"):
        inflate(bad)


def test_network_that_is_3d_already_is_refused():
    # Its kernels are 3D and its settings are those of its making; a second call could keep neither axis nor inflation.
    with pytest.raises(InvalidInputError, match="already"):
        inflate(inflate(small_net(), "average", axis="x"))


def test_refused_network_has_nothing_replaced():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.GRU(4, 4))
    before = copy.deepcopy(dict(model.named_modules()))
    for attempt in (inflate, lambda net: replace_leaves(net, Settings(inflation="center"))):
        with pytest.raises(UnsupportedError, match="has 2 modules"):
            attempt(model)
        assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in before.items()}
        assert {p.device.type for p in model.parameters()} == {"cpu"}


# Structure and weights as two steps.


def test_structure_is_built_without_weights():
    net = inflate_structure(timm.create_model("test_resnet"), Settings())
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert net.provenance.report is None


def test_only_convolutions_on_the_meta_device_are_given_weights():
    torch.manual_seed(0)
    net = create_model("dla34", num_classes=2)
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = inflate_structure(nn.Sequential(nn.Conv2d(512, 9, 3)), Settings())[0]
    net.fc = fresh
    materialize_(net)
    assert net.fc is fresh
    assert net.fc.weight.device.type == "cpu"
    assert net.fc.weight.std().item() == pytest.approx((2 / (27 * 9)) ** 0.5, rel=0.05)
    assert net.fc.bias.count_nonzero() == 0
    others = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    assert others
    assert all(torch.equal(value, kept[key]) for key, value in others.items())


def test_attribute_named_provenance_is_the_users_own_affair():
    model = small_net()
    model.provenance = "a thesis"
    assert inflate(model).provenance.settings == Settings()
    assert model.provenance == "a thesis"


@pytest.mark.parametrize("name", ["provenance", "settings", "source", "base"])
def test_module_with_the_name_of_an_attribute_of_inflated_networks_is_refused(name):
    model = nn.Module()
    model.add_module(name, nn.Conv2d(3, 4, 3))
    with pytest.raises(InvalidInputError, match=rf"\['{name}'\].*Rename"):
        inflate(model)


def test_inflated_network_is_not_inflated_again():
    with pytest.raises(InvalidInputError, match="inflated already"):
        inflate(inflate(small_net()))
