"""Statistics of normalisation from clouds: against means and variances written out, and a network that is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.finetune import statistics
from i2p_zoo.finetune.statistics import adapt_statistics_, find_norms_with_statistics
from tests.finetune.conftest import modes_and_hooks, no_clouds, resnet, shapes, state_of, tiny


def test_statistics_of_the_first_layer_are_those_of_what_it_reads():
    model, clouds = tiny().double(), shapes()
    assert adapt_statistics_(model, clouds, batch_size=len(clouds)) == 2
    convolution, norm = model[0], model[1]
    points = [clouds.cloud(number) for number in range(len(clouds))]
    with torch.no_grad():
        features = convolution(model.settings.voxelize(points)[0].double()).features
    torch.testing.assert_close(norm.running_mean, features.mean(0))
    torch.testing.assert_close(norm.running_var, features.var(0))


def test_batches_count_alike_and_every_layer_normalises_by_its_own_batch():
    model, clouds = tiny().double(), shapes()
    parts = []
    for rows in np.split(np.random.default_rng(0).permutation(24), 2):
        part = copy.deepcopy(model)
        adapt_statistics_(part, clouds.subset(rows), 12)
        parts.append(part.state_dict())
    adapt_statistics_(model, clouds, batch_size=12)
    for name, tensor in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2)


def test_clouds_that_stand_class_by_class_are_mixed_into_batches_of_nearly_equal_size(monkeypatch):
    clouds = shapes()
    clouds = clouds.subset(np.argsort(clouds.labels, kind="stable"))
    batches, sizes = statistics.evaluation_batches, []

    def spy(mixed, size, settings):
        sizes.append([len(np.unique(mixed.labels[start : start + size])) for start in range(0, len(mixed), size)])
        sizes.append([len(mixed.labels[start : start + size]) for start in range(0, len(mixed), size)])
        return batches(mixed, size, settings)

    monkeypatch.setattr(statistics, "evaluation_batches", spy)
    adapt_statistics_(tiny(), clouds, batch_size=10)
    assert sizes == [[len(clouds.classes)] * 3, [8, 8, 8]], "24 clouds in batches of 10, 10 and 4 would count unequally"


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_statistics_changes(training):
    model = resnet().train(training)
    state, modes = state_of(model), modes_and_hooks(model)
    momenta = [norm.momentum for norm in find_norms_with_statistics(model)]
    assert adapt_statistics_(model, shapes()) == len(momenta)
    assert modes_and_hooks(model) == modes
    assert [norm.momentum for norm in find_norms_with_statistics(model)] == momenta
    changed = {name.rpartition(".")[2] for name, t in model.state_dict().items() if not torch.equal(t, state[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_dropout_is_off():
    def adapted(dropout):
        model = tiny(dropout).train()
        adapt_statistics_(model, shapes())
        return [norm.running_mean for norm in find_norms_with_statistics(model)]

    for first, second in zip(adapted(0.0), adapted(0.9), strict=True):
        assert torch.equal(first, second)


def test_views_keep_the_statistics_of_images():
    model, plain = (
        i2p_zoo.create_pyramid_classifier("test_resnet", 3, pretrained=False, voxel_size=0.2, views=views)
        for views in (True, False)
    )
    before = state_of(model)
    assert adapt_statistics_(model, shapes()) == adapt_statistics_(plain, shapes())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all((name.startswith("encoder.") and "running" in name) or name.endswith("tracked") for name in changed)
    assert not any(name.startswith("views.") for name in changed)


def test_an_error_on_the_way_leaves_the_network_as_it_was(monkeypatch):
    model = resnet()
    state, momenta = state_of(model), [norm.momentum for norm in find_norms_with_statistics(model)]
    calls = []

    def fail(module, inputs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    model.fc.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        adapt_statistics_(model, shapes(), batch_size=8)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [norm.momentum for norm in find_norms_with_statistics(model)] == momenta


def test_what_has_no_statistics_is_refused():
    with pytest.raises(InvalidInputError, match=r"clouds \(0\)"):
        adapt_statistics_(resnet(), no_clouds())
    with pytest.raises(InvalidInputError, match=r"batch_size of 1 or more \(0\)"):
        adapt_statistics_(resnet(), shapes(), 0)
    layer_norms = i2p_zoo.create_model("test_convnext", num_classes=3, stem="point")
    with pytest.raises(InvalidInputError, match=r"BatchNorm layers that keep them \(0\)"):
        adapt_statistics_(layer_norms, shapes())
