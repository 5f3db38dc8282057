"""Finetuning: exactly what each mode trains, accuracy against hand-counted numbers, and a training loop without surprises."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet, TrainingBatches
from i2p_zoo.finetune import NORMS, History, evaluate, find_classifier, find_input_layers, freeze, train
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure_
from i2p_zoo.networks.timm_models import create_timm_model

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


def resnet():
    """A small ResNet with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return i2p_zoo.create_model("test_resnet", num_classes=3, stem="point", skip_downsamples=2, voxel_size=0.2)


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


@pytest.mark.parametrize(
    "name", ["convnext_zepto_rms", "convnext_atto_rms", "convnextv2_atto", "resnetv2_50d_evos", "resnetv2_50d_frn", "resnet18"]
)
def test_every_layer_that_timm_calls_a_norm_is_one(name):
    model = inflate_structure_(create_timm_model(name, structure=True), Settings())
    called = [
        module for module in model.modules() if "Norm" in type(module).__name__ and list(module.parameters(recurse=False))
    ]
    assert called
    assert all(isinstance(module, NORMS) for module in called)


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


def modes_and_hooks(model):
    return [(m.training, len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]


@pytest.mark.parametrize("raises", [False, True])
def test_looking_for_input_layers_leaves_modes_hooks_and_state_as_they_were(raises):
    model = resnet().train()
    model.layer2.eval()
    before, state = modes_and_hooks(model), copy.deepcopy(model.state_dict())
    if raises:

        def fail(*_):
            raise RuntimeError("broken layer")

        handle = model.layer3.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="broken layer"):
            find_input_layers(model)
        handle.remove()
    else:
        find_input_layers(model)
    assert modes_and_hooks(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


class Oracle(nn.Module):
    """Classifies a cloud of one point by the point's largest coordinate; knows three classes."""

    settings = Settings()

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return x.features


def answered(answers, labels, classes=5):
    points = np.eye(3, dtype=np.float32)[answers][:, None]
    return CloudSet(points, np.array(labels, np.int64), tuple("abcdefg"[:classes]))


def no_clouds():
    return CloudSet(np.zeros((0, 4, 3), np.float32), np.zeros(0, np.int64), ("a",))


# Answers, labels, accuracy over all clouds, mean over the classes that occur.
ACCURACIES = {
    "all right": ([0, 1, 2], [0, 1, 2], 1, 1),
    "all wrong": ([1, 2, 0], [0, 1, 2], 0, 0),
    "unequal classes": ([0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1], 3 / 6, (3 / 4 + 0) / 2),
    "absent class 1": ([0, 2, 2, 2, 0, 1], [0, 0, 2, 2, 2, 2], 3 / 6, (1 / 2 + 2 / 4) / 2),
    "a class that is never named": ([0, 0, 2], [0, 4, 4], 1 / 3, (1 + 0) / 2),
    "one cloud": ([2], [2], 1, 1),
}


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize(("answers", "labels", "top1", "mean_class"), ACCURACIES.values(), ids=ACCURACIES.keys())
def test_accuracy_is_what_counting_by_hand_gives(answers, labels, top1, mean_class, batch_size):
    accuracy = evaluate(Oracle(), answered(answers, labels), batch_size)
    assert accuracy.top1 == pytest.approx(top1)
    assert accuracy.mean_class == pytest.approx(mean_class)
    assert accuracy.predictions.tolist() == answers
    assert type(accuracy.top1) is type(accuracy.mean_class) is float


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_in_eval_mode_and_puts_the_mode_back(training):
    oracle = Oracle().train(training)
    evaluate(oracle, answered([0, 1, 2], [0, 1, 2]), 2)
    assert oracle.modes == [False, False]
    assert oracle.training is training


@pytest.mark.parametrize("raises", [False, True])
def test_evaluation_leaves_every_modules_mode_and_the_state_as_they_were(raises):
    model = resnet().train()
    model.layer2.eval()
    before, state = modes_and_hooks(model), copy.deepcopy(model.state_dict())
    if raises:
        model.settings = model.settings.changed(features="rgb")
        with pytest.raises(InvalidInputError, match="rgb"):
            evaluate(model, shapes())
    else:
        evaluate(model, shapes())
    assert modes_and_hooks(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_takes_a_float64_network():
    model = resnet().eval()
    expected = evaluate(model, shapes()).predictions
    assert evaluate(model.double(), shapes()).predictions.tolist() == expected.tolist()


@pytest.mark.parametrize(("clouds", "batch_size"), [("none", 64), ("some", 0), ("some", -1)])
def test_evaluation_refuses_what_has_no_accuracy(clouds, batch_size):
    with pytest.raises(InvalidInputError):
        evaluate(Oracle(), answered([0, 1], [0, 1]) if clouds == "some" else no_clouds(), batch_size)


def shapes(count=24, points=24):
    """Three easy classes: rods along x, along z, and balls."""
    random = np.random.default_rng(0)
    thin = {0: (1, 0.1, 0.1), 1: (0.1, 0.1, 1), 2: (0.6, 0.6, 0.6)}
    labels = np.arange(count) % 3
    clouds = np.stack([random.uniform(-1, 1, (points, 3)) * thin[label] for label in labels.tolist()])
    return CloudSet(clouds.astype(np.float32), labels.astype(np.int64), ("rod x", "rod z", "ball"))


def tiny(dropout=0.0):
    """A network of two convolutions with seeded weights: a step takes milliseconds."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)]
        head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 3)]
        model = i2p_zoo.inflate(nn.Sequential(*layers, *head))
    model.settings = model.settings.changed(voxel_size=0.2)
    return model


def figures(history):
    return [(step.loss, step.batch_top1) for step in history]


def test_training_learns_an_easy_problem():
    model = tiny()
    clouds = shapes()
    untrained = evaluate(model, clouds)
    history = train(model, clouds, steps=60, batch_size=12).steps
    assert np.mean([step.loss for step in history[-5:]]) < 0.3 < 0.9 < history[0].loss
    assert untrained.top1 < 0.7
    assert evaluate(model, shapes(30)).top1 > 0.9


def test_a_timm_network_learns_too():
    model = resnet()
    history = train(model, shapes(), steps=25, batch_size=8, learning_rate=0.02).steps
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert np.mean([step.loss for step in history[-3:]]) < 0.7 * np.mean([step.loss for step in history[:3]])


def test_history_has_a_finite_entry_for_each_step():
    history = train(tiny(), shapes(), steps=7, batch_size=4)
    assert [step.step for step in history.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert all(math.isfinite(step.loss) and step.loss > 0 for step in history.steps)
    assert all(step.batch_top1 * 4 in (0, 1, 2, 3, 4) for step in history.steps)
    seconds = [step.seconds for step in history.steps]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert 0 < history.waited < seconds[-1]
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_the_first_step_is_measured_before_any_update():
    model = tiny()
    points, labels = map(list, zip(*TrainingBatches(shapes(), 6, 2)[0], strict=True))
    labels = torch.tensor(labels)
    with torch.no_grad():
        logits = copy.deepcopy(model).train()(points)
    (first, *_) = train(model, shapes(), steps=2, batch_size=6, seed=2).steps
    assert first.loss == pytest.approx(float(-logits.log_softmax(1)[range(6), labels].mean()), rel=1e-5)
    assert first.batch_top1 == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    runs = []
    for seed, global_seed in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        model = tiny(dropout=0.5)
        history = train(model, shapes(), steps=6, batch_size=6, seed=seed).steps
        runs.append((figures(history), model.state_dict()))
    (first, first_state), (again, again_state), (other, _) = runs
    assert first == again != other
    assert all(torch.equal(tensor, again_state[name]) for name, tensor in first_state.items())


def test_dropout_is_drawn_from_the_seed_and_drops():
    plain, dropped, again, other = (
        figures(train(tiny(dropout), shapes(), steps=4, batch_size=6, seed=seed).steps)
        for dropout, seed in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    )
    assert dropped == again
    assert plain != dropped != other


def test_training_leaves_the_callers_random_state_alone():
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    train(tiny(), shapes(), steps=2, batch_size=4)
    assert torch.equal(torch.rand(3), expected)


def watched_training(monkeypatch, **kwargs):
    """Trains and returns learning rate, momentum and weight decay at each of the optimizer's steps."""
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, *args, **kwargs):
            (group,) = self.param_groups
            seen.append({key: group[key] for key in ("lr", "momentum", "weight_decay")})
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "SGD", Watched)
    train(tiny(), shapes(), batch_size=4, **kwargs)
    return seen


def test_learning_rate_is_stepped_every_batch_and_ends_low(monkeypatch):
    seen = watched_training(monkeypatch, steps=30, learning_rate=0.2, weight_decay=0.003)
    rates = [step["lr"] for step in seen]
    assert len(rates) == 30
    assert all(rate != after for rate, after in itertools.pairwise(rates))
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(0.2)
    assert 3 <= top <= 8
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.002
    assert rates[0] < 0.1
    assert {step["weight_decay"] for step in seen} == {0.003}


def test_momentum_is_the_documented_one_at_every_step(monkeypatch):
    assert {step["momentum"] for step in watched_training(monkeypatch, steps=20)} == {0.9}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 10, 15])
def test_any_number_of_steps_trains_at_about_the_given_rate(steps, monkeypatch):
    seen = watched_training(monkeypatch, steps=steps, learning_rate=0.1)
    assert len(seen) == steps
    assert 0.05 < max(step["lr"] for step in seen) <= 0.1 + 1e-12


BAD_NUMBERS = {
    "no steps": ({"steps": 0}, r"steps \(=0\)"),
    "negative steps": ({"steps": -2}, r"steps \(=-2\)"),
    "empty batches": ({"batch_size": 0}, r"batch_size \(=0\)"),
    "zero learning rate": ({"learning_rate": 0.0}, r"learning_rate \(=0\.0\)"),
    "negative learning rate": ({"learning_rate": -1.0}, r"learning_rate \(=-1\.0\)"),
    "learning rate that is no number": ({"learning_rate": float("nan")}, r"learning_rate \(=nan\)"),
    "negative weight decay": ({"weight_decay": -0.1}, r"-0\.1"),
    "negative seed": ({"seed": -1}, r"-1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys())
def test_numbers_out_of_range_are_quoted(arguments, message):
    model = tiny()
    with pytest.raises(InvalidInputError, match=message):
        train(model, shapes(), **{"steps": 2, "batch_size": 4, **arguments})


def test_training_nothing_is_refused():
    model = tiny()
    freeze(model, "none")
    with pytest.raises(InvalidInputError, match=r"trainable parameters \(0 tensors\)"):
        train(model, shapes(), steps=1)


def test_training_on_no_clouds_is_refused():
    with pytest.raises(InvalidInputError, match=r"clouds \(0\)"):
        train(tiny(), no_clouds(), steps=1)


def test_the_bar_is_on_stderr_and_only_when_asked_for(capsys):
    train(tiny(), shapes(), steps=2, batch_size=4)
    assert capsys.readouterr() == ("", "")
    train(tiny(), shapes(), steps=2, batch_size=4, progress="my run")
    out, err = capsys.readouterr()
    assert out == ""
    assert "my run" in err
    assert "2/2" in err


def test_a_batch_larger_than_the_set_trains():
    assert len(train(tiny(), shapes(5), steps=2, batch_size=16).steps) == 2
