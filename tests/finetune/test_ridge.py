"""The classifier in closed form: against scikit-learn's, with classes that are missing, without a linear classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.analysis import penultimate_features
from i2p_zoo.data import CloudSet
from i2p_zoo.data.clouds import divide_shots
from i2p_zoo.finetune import evaluate
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.finetune.label_propagation import propagate_labels
from i2p_zoo.finetune.ridge import fit_ridge_
from i2p_zoo.modules import class_names, find_classifier
from tests.finetune.conftest import modes_and_hooks, resnet, shapes, state_of


@pytest.mark.parametrize("count", [6, 120], ids=["fewer clouds than channels", "more clouds than channels"])
@pytest.mark.parametrize("strength", [1.0, 0.1])
def test_logits_are_those_of_scikit_learn(count, strength):
    model, clouds = resnet(), shapes(count)
    features = penultimate_features(model, clouds).numpy().astype(np.float64)
    fit_ridge_(model, clouds, strength)
    labels = clouds.hard_labels()
    centre = np.mean([features[labels == k].mean(0) for k in range(3)], axis=0)
    lengths = np.linalg.norm(features - centre, axis=1)
    target = np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    ridge = Ridge(alpha=strength, fit_intercept=False).fit((features - centre) / lengths[:, None], target)
    expected = (features - centre) @ ridge.coef_.T / lengths.mean() / 0.1
    np.testing.assert_allclose(predict_logits(model, clouds).numpy(), expected, rtol=0, atol=2e-3)
    assert class_names(model) == clouds.classes


@pytest.mark.parametrize(("count", "strength"), [(3, 1.0), (60, 0.05)])
def test_strength_is_one_divided_by_the_clouds_a_class(count, strength):
    default, told = resnet(), resnet()
    fit_ridge_(default, shapes(count))
    fit_ridge_(told, shapes(count), strength)
    assert torch.equal(find_classifier(default).weight, find_classifier(told).weight)


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), float("inf")])
def test_strength_is_a_positive_number(strength):
    with pytest.raises(InvalidInputError, match="`strength` must be a positive number"):
        fit_ridge_(resnet(), shapes(), strength)


def test_one_cloud_of_each_class_tells_easy_shapes_apart_and_the_rest_of_the_network_stays():
    model, clouds = resnet(), shapes(60)
    state, hooks = state_of(model), modes_and_hooks(model)
    fit_ridge_(model, clouds.subset(np.arange(3)))
    assert evaluate(model, clouds).top1 > 0.5
    assert modes_and_hooks(model) == hooks
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_unlabelled_clouds_count_with_what_labels_spread_to_them():
    model, clouds = resnet(), shapes(60)
    labelled, others = divide_shots(clouds, 2)
    features = np.concatenate([penultimate_features(model, part).double().numpy() for part in (labelled, others)])
    fit_ridge_(model, labelled, unlabelled=others)
    centred = features - features.mean(0)
    rows = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    shares = propagate_labels(torch.from_numpy(rows), torch.from_numpy(labelled.hard_labels()), 3).numpy()
    weights = np.where(np.arange(60) < 6, 1, 0.3 * shares.max(1) ** 2)
    target = shares - weights @ shares / weights.sum()
    ridge = Ridge(alpha=0.5, fit_intercept=False).fit(rows, target, sample_weight=weights)
    expected = (penultimate_features(model, clouds).numpy() - features.mean(0)) @ ridge.coef_.T
    expected /= 0.1 * np.linalg.norm(centred, axis=1).mean()
    np.testing.assert_allclose(predict_logits(model, clouds).numpy(), expected, rtol=0, atol=2e-3)


def test_labels_of_unlabelled_clouds_are_not_looked_at():
    labelled, others = divide_shots(shapes(30), 1)
    models = [resnet(), resnet()]
    fit_ridge_(models[0], labelled, unlabelled=others)
    fit_ridge_(models[1], labelled, unlabelled=replace(others, labels=np.zeros(len(others), np.int64)))
    assert torch.equal(find_classifier(models[0]).weight, find_classifier(models[1]).weight)


def test_unlabelled_clouds_of_another_normalisation_are_refused():
    labelled, others = divide_shots(shapes(30), 1)
    with pytest.raises(InvalidInputError, match="must be centred and scaled as the labelled ones"):
        fit_ridge_(resnet(), labelled, unlabelled=replace(others, normalization="unit_sphere"))


def test_unlabelled_clouds_help_where_few_have_labels():
    gains = []
    for seed in range(6):
        labelled, others = divide_shots(shapes(120), 1, seed)
        scores = []
        for unlabelled in (None, others):
            model = resnet()
            fit_ridge_(model, labelled, unlabelled=unlabelled)
            scores.append(evaluate(model, others).top1)
        gains.append(scores[1] - scores[0])
    assert np.mean(gains) > 0, gains


def test_a_classifier_without_a_bias_gets_one():
    model, other = resnet(), resnet()
    find_classifier(model).register_parameter("bias", None)
    for network in (model, other):
        fit_ridge_(network, shapes())
    assert torch.equal(find_classifier(model).bias, find_classifier(other).bias)


def test_what_cannot_be_fitted_is_refused_and_nothing_changes():
    model, clouds = resnet(), shapes()
    state = state_of(model)
    rods = clouds.subset(np.flatnonzero(clouds.hard_labels() != 2))
    with pytest.raises(InvalidInputError, match="there is none of ball"):
        fit_ridge_(model, rods)
    four = CloudSet(clouds.points, np.arange(24) % 4, ("a", "b", "c", "d"))
    with pytest.raises(InvalidInputError, match=r"3 outputs for 4 classes: call `model.reset_classifier\(4\)` first"):
        fit_ridge_(model, four)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    convolutional = i2p_zoo.create_model("dla46_c", num_classes=3, stem="point", voxel_size=0.2)
    assert not isinstance(find_classifier(convolutional), nn.Linear)
    with pytest.raises(UnsupportedError, match="needs a linear classifier"):
        fit_ridge_(convolutional, clouds)
