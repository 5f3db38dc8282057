"""Class means as a classifier: against the rule written out, with classes that are missing, without a linear classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.data import CloudSet
from i2p_zoo.finetune import evaluate
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.finetune.prototypes import fit_prototypes_, read_features
from i2p_zoo.modules import class_names, find_classifier
from tests.finetune.conftest import modes_and_hooks, resnet, shapes, state_of


def test_logits_are_cosines_to_the_centred_class_means():
    model, clouds = resnet(), shapes()
    features = read_features(model, find_classifier(model), clouds, 5).numpy().astype(np.float64)
    fit_prototypes_(model, clouds)
    means = np.stack([features[clouds.hard_labels() == k].mean(0) for k in range(3)])
    centre = means.mean(0)
    difference = features - centre
    cosines = difference @ (means - centre).T / np.linalg.norm(means - centre, axis=1)
    expected = cosines / np.linalg.norm(difference, axis=1).mean() / 0.1
    np.testing.assert_allclose(predict_logits(model, clouds).numpy(), expected, rtol=0, atol=2e-3)
    assert class_names(model) == clouds.classes


def test_one_cloud_of_each_class_tells_easy_shapes_apart_and_the_rest_of_the_network_stays():
    model, clouds = resnet(), shapes(60)
    state, hooks = state_of(model), modes_and_hooks(model)
    fit_prototypes_(model, clouds.subset(np.arange(3)))
    assert evaluate(model, clouds).top1 > 0.5
    assert modes_and_hooks(model) == hooks
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_classifier_without_a_bias_gets_one():
    model, other = resnet(), resnet()
    find_classifier(model).register_parameter("bias", None)
    for network in (model, other):
        fit_prototypes_(network, shapes())
    assert torch.equal(find_classifier(model).bias, find_classifier(other).bias)


def test_what_has_no_prototypes_is_refused_and_nothing_changes():
    model, clouds = resnet(), shapes()
    state = state_of(model)
    rods = clouds.subset(np.flatnonzero(clouds.hard_labels() != 2))
    with pytest.raises(InvalidInputError, match="there is none of ball"):
        fit_prototypes_(model, rods)
    four = CloudSet(clouds.points, np.arange(24) % 4, ("a", "b", "c", "d"))
    with pytest.raises(InvalidInputError, match=r"3 outputs for 4 classes: call `model.reset_classifier\(4\)` first"):
        fit_prototypes_(model, four)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    convolutional = i2p_zoo.create_model("dla46_c", num_classes=3, stem="point", voxel_size=0.2)
    assert not isinstance(find_classifier(convolutional), nn.Linear)
    with pytest.raises(UnsupportedError, match="Prototypes need a linear classifier"):
        fit_prototypes_(convolutional, clouds)
