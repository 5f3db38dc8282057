"""Freezing: exactly what each mode trains, and which layers read the input."""

from __future__ import annotations

import contextlib
import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.finetune import find_classifier, find_input_layers, freeze, train
from tests.finetune.conftest import modes_and_hooks, resnet, shapes
from tests.helpers import random_cloud

# Architecture: the convolutions that read the image, and the classifier, as timm's source names them.
NETWORKS = {
    "test_resnet": (["conv1.0"], "fc"),
    "mobilenetv3_small_050": (["conv_stem"], "classifier"),
    "test_efficientnet": (["conv_stem"], "classifier"),
    "dla46_c": (["base_layer.0"], "fc"),
    "densenet121": (["features.conv0"], "classifier"),
    "repvgg_a0": (["stem.conv_1x1.conv", "stem.conv_kxk.conv"], "head.fc"),
}
MODES = ["all", "io+bn", "io+stats", "io", "head", "none"]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A network that tests may freeze as they like, its input layers and its classifier."""
    return i2p_zoo.create_model(request.param, num_classes=5), *NETWORKS[request.param]


def expected_names(model, mode, inputs, classifier):
    """The parameters that train, from the names of the state dict alone: BatchNorm is what has a running mean."""
    names = {name for name, _ in model.named_parameters()}
    ends = [name for name in names if name.rpartition(".")[0] in (*inputs, classifier)]
    norms = [name.removesuffix("running_mean") for name in model.state_dict() if name.endswith("running_mean")]
    norms = [norm + kind for norm in norms for kind in ("weight", "bias")]
    head = {name for name in names if name.rpartition(".")[0] == classifier}
    return {"all": names, "head": head, "none": set(), "io": set(ends), "io+stats": set(ends), "io+bn": {*ends, *norms}}[mode]


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_trains_exactly_its_parameters_and_counts_them(network, mode):
    model, inputs, classifier = network
    expected = expected_names(model, mode, inputs, classifier)
    count = freeze(model, mode)
    assert trained_names(model) == expected
    sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
    assert count.trained == sum(sizes[name] for name in expected)
    assert count.total == sum(sizes.values())


def test_input_layers_are_those_that_timm_names(network):
    model, inputs, classifier = network
    names = {module: name for name, module in model.named_modules()}
    assert [names[layer] for layer in find_input_layers(model)] == inputs
    assert names[find_classifier(model)] == classifier


@pytest.mark.parametrize("before", MODES)
def test_no_trace_is_left_of_an_earlier_mode(before):
    model = resnet()
    freeze(model, before)
    freeze(model, "all")
    model.train()
    assert trained_names(model) == {name for name, _ in model.named_parameters()}
    assert all(module.training for module in model.modules())
    freeze(model, before)
    assert trained_names(model) == expected_names(model, before, ["conv1.0"], "fc")


def norms(model):
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize(("mode", "moves"), [("all", True), ("io+bn", True), ("io", False), ("none", False)])
@pytest.mark.parametrize("order", ["freeze first", "train first"])
def test_training_mode_reaches_normalisation_only_where_the_mode_says(mode, moves, order):
    model = resnet().eval()
    for step in ("freeze", "train") if order == "freeze first" else ("train", "freeze"):
        freeze(model, mode) if step == "freeze" else model.train()
    assert model.training
    assert {module.training for module in norms(model)} == {moves}
    others = [module for module in model.modules() if not isinstance(module, _BatchNorm)]
    assert all(module.training for module in others)
    model.eval()
    assert not any(module.training for module in model.modules())


def test_freezing_keeps_eval_mode():
    model = resnet().eval()
    for mode in MODES:
        freeze(model, mode)
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("mode", ["all", "io+bn", "io"])
def test_training_changes_the_bits_of_what_trains_and_of_nothing_else(mode):
    model = resnet().eval()  # as `from_pretrained` returns it
    freeze(model, mode)
    before = copy.deepcopy(model.state_dict())
    train(model, shapes(), steps=3, batch_size=6)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    parameters = {name for name, _ in model.named_parameters()}
    assert changed & parameters == expected_names(model, mode, ["conv1.0"], "fc")
    statistics = before.keys() - parameters
    assert len(statistics) == 3 * len(norms(model))
    assert changed - parameters == (set() if mode == "io" else statistics)


@pytest.mark.parametrize("mode", ["io", "io+bn"])
def test_layer_and_group_norm_follow_the_mode_too(mode):
    model = i2p_zoo.inflate(WideFirst()).train()
    model.layer_norm, model.group_norm = nn.LayerNorm(4), nn.GroupNorm(2, 4)
    freeze(model, mode)
    added = {f"{norm}_norm.{kind}" for norm in ("layer", "group") for kind in ("weight", "bias")}
    assert added & trained_names(model) == (added if mode == "io+bn" else set())
    assert model.layer_norm.training is model.group_norm.training is (mode == "io+bn")


def test_norms_without_a_mean_follow_the_mode_too():
    model = i2p_zoo.create_model("convnext_zepto_rms", num_classes=3)
    norms = [module for module in model.modules() if type(module).__name__ == "SimpleNorm2d"]
    added = freeze(model, "io+bn").trained - freeze(model, "io").trained
    assert added == sum(parameter.numel() for norm in norms for parameter in norm.parameters()) > 0


def test_frozen_parameters_get_no_gradient():
    model = resnet()
    freeze(model, "io")
    model.train()
    model(list(shapes().points[:4])).sum().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == expected_names(model, "io", ["conv1.0"], "fc")


def test_unknown_mode_is_quoted_and_changes_nothing():
    model = resnet()
    freeze(model, "io")
    before = trained_names(model)
    with pytest.raises(InvalidInputError, match=r"all, io\+bn, io\+stats, io, head, none; got 'IO'"):
        freeze(model, "IO")
    assert trained_names(model) == before


@pytest.mark.parametrize("mode", ["io", "io+bn"])
def test_a_network_without_classifier_is_refused_and_left_as_it_was(mode):
    model = i2p_zoo.create_model("test_resnet", num_classes=0)
    with pytest.raises(InvalidInputError, match=r"ResNet.*no classifier.*num_classes"):
        freeze(model, mode)
    assert trained_names(model) == {name for name, _ in model.named_parameters()}
    assert not model.frozen_norms


@pytest.mark.parametrize("mode", ["all", "none"])
def test_a_network_without_classifier_can_train_whole_or_not_at_all(mode):
    count = freeze(i2p_zoo.create_model("test_resnet", num_classes=0), mode)
    assert count.trained == (count.total if mode == "all" else 0)


class TwoBranches(nn.Module):
    """Two convolutions read the input, one of them twice; a third reads what they give."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.wide = nn.Conv2d(2, 4, 3, padding=1)
        self.narrow = nn.Conv2d(2, 4, 1)
        self.fc = nn.Linear(4, 3)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        x = self.deep(torch.relu(self.wide(x) + self.narrow(x) + self.wide(x)))
        return self.fc(x.mean((2, 3)))


class WideFirst(TwoBranches):
    """The same with a convolution of the input's channels registered first."""

    def __init__(self):
        super().__init__()
        wide, deep = self.wide, self.deep
        del self.wide, self.deep
        self._modules = {"wide": wide, "deep": deep, **self._modules}


def test_every_convolution_that_reads_the_input_is_found_once():
    model = i2p_zoo.inflate(WideFirst())
    assert find_input_layers(model) == [model.wide, model.narrow]
    freeze(model, "io")
    assert trained_names(model) == {f"{layer}.{kind}" for layer in ("wide", "narrow", "fc") for kind in ("weight", "bias")}


def test_input_layers_are_found_whatever_the_order_of_registration():
    model = i2p_zoo.inflate(TwoBranches())
    assert find_input_layers(model) == [model.wide, model.narrow]


NO_INPUT_LAYER = {
    "normalised input": nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
    "no convolution": nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
}


@pytest.mark.parametrize("network", NO_INPUT_LAYER.values(), ids=NO_INPUT_LAYER.keys())
def test_a_network_whose_input_no_convolution_reads_is_refused(network):
    with pytest.raises(InvalidInputError, match="No convolution of PointCloudSequential reads the input"):
        find_input_layers(i2p_zoo.inflate(network))


@pytest.mark.parametrize("in_chans", [1, 3, 6])
@pytest.mark.parametrize("stem", ["image", "point"])
def test_input_layers_of_any_number_of_channels_are_found(in_chans, stem):
    model = i2p_zoo.create_model("test_efficientnet", in_chans=in_chans, stem=stem)
    assert find_input_layers(model) == [model.conv_stem]


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken layer")


@pytest.mark.parametrize("raises", [False, True])
def test_looking_for_input_layers_leaves_modes_hooks_and_state_as_they_were(raises):
    model = resnet().train()
    model.layer2.eval()
    if raises:
        model.layer3 = Broken()
    before, state = modes_and_hooks(model), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="broken layer") if raises else contextlib.nullcontext():
        find_input_layers(model)
    assert modes_and_hooks(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_looking_for_input_layers_calls_no_hook_of_the_user():
    model, calls = resnet(), []
    model.layer1.register_forward_hook(lambda *_: calls.append("forward"))
    model.conv1.register_forward_pre_hook(lambda *_: calls.append("before"))
    find_input_layers(model)
    assert not calls


def unfreeze_all(model):
    model.requires_grad_(True)


def unfreeze_by_a_loop(model):
    for parameter in model.parameters():
        parameter.requires_grad = True


UNFREEZE = {  # what users call to let everything train again
    "requires_grad_": unfreeze_all,
    "a loop": unfreeze_by_a_loop,
    "timm.utils.unfreeze": lambda model: timm.utils.unfreeze(model, include_bn_running_stats=False),
    "our own mode": lambda model: freeze(model, "all"),
}


@pytest.mark.parametrize("unfreeze", UNFREEZE.values(), ids=UNFREEZE.keys())
@pytest.mark.parametrize("mode", ["io", "head", "none"])
def test_normalisation_that_is_unfrozen_trains_as_if_it_had_never_been_frozen(mode, unfreeze):
    model, never = resnet(), resnet()
    freeze(model, mode)
    unfreeze(model)
    x = random_cloud(3, voxels=40, dtype=torch.float32)
    model.train()(x)
    never.train()(x)
    assert [module.training for module in model.modules()] == [True] * len(list(model.modules()))
    for (name, found), expected in zip(model.named_buffers(), never.buffers(), strict=True):
        assert torch.equal(found, expected), name


def test_normalisation_of_one_unfrozen_stage_trains_and_the_rest_stays():
    model = resnet()
    freeze(model, "head")
    model.layer4.requires_grad_(True)
    model.train()
    norms = {name: m.training for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {name: name.startswith("layer4.") for name in norms}


def test_normalisation_without_parameters_trains_where_everything_does():
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = i2p_zoo.inflate(nn.Sequential(*layers, nn.Linear(4, 2)))
    freeze(model, "none")
    assert not model.train()[1].training
    model[0].requires_grad_(True)
    assert not model.train()[1].training
    model.requires_grad_(True)
    assert model.train()[1].training
