"""The norm on the logits: made with each new classifier, and trained with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2p_zoo.finetune import evaluate, freeze, train
from tests.finetune.conftest import shapes
from tests.networks.conftest import make_papers_network


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
