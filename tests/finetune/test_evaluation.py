"""Accuracy against hand-counted numbers, and a network that is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet
from i2p_zoo.finetune import Classification, Options, evaluate
from i2p_zoo.inflation.settings import Settings
from tests.finetune.conftest import modes_and_hooks, no_clouds, resnet, shapes


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


class Wavering(nn.Module):
    """Gives logits of its own for each vote, and notes the coordinates that it sees."""

    settings = Settings(voxel_size=0.4)

    def __init__(self, *shares):
        super().__init__()
        self.logits, self.seen = iter([torch.tensor([row]).log() for row in shares]), []

    def forward(self, x):
        self.seen.append(x.features)
        return next(self.logits)


# Probabilities of two classes by vote, and the likeliest class of their mean.
VOTES = {
    "one": ([(0.6, 0.4)], 0),
    "the surer of two": ([(0.6, 0.4), (0.1, 0.9)], 1),
    "not the majority of three": ([(0.4, 0.6), (0.4, 0.6), (0.9, 0.1)], 0),
}


@pytest.mark.parametrize(("shares", "expected"), VOTES.values(), ids=VOTES.keys())
def test_probabilities_are_averaged_over_grids_that_stand_apart_by_equal_parts_of_a_voxel(shares, expected):
    network, point = Wavering(*shares), torch.tensor([[0.1, -0.2, 0.3]])
    clouds = CloudSet(point.numpy()[None], np.array([expected]), ("a", "b"))
    assert evaluate(network, clouds, votes=len(shares)).top1 == 1
    steps = [0.4 * number / len(shares) for number in range(len(shares))]
    for seen, step in zip(network.seen, steps, strict=True):
        torch.testing.assert_close(seen, point + step)
    assert torch.equal(network.seen[0], point)
    monitored = Classification(clouds, clouds, votes=len(shares)).evaluate(Wavering(*shares), None, Options(steps=1))
    assert monitored["top1"] == 1, "so are those of what is held out"


def test_a_vote_is_what_the_network_says_of_clouds_that_were_moved_by_hand():
    model, clouds = resnet().double().eval(), shapes()
    moved = [torch.from_numpy(clouds.points).double() + step for step in (0, 0.2 / 3, 0.4 / 3)]
    with torch.no_grad():
        expected = sum(model(list(each)).softmax(1) for each in moved).argmax(1)
    assert evaluate(model, clouds, batch_size=7, votes=3).predictions.tolist() == expected.tolist()


def test_there_is_a_vote():
    with pytest.raises(InvalidInputError, match=r"`votes` \(=0\) must be at least 1"):
        evaluate(resnet(), shapes(), votes=0)
