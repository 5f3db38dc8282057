"""The numbers of a run: the learning rate at each step, and what is out of range."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.finetune import Options, train
from tests.finetune.conftest import shapes, tiny


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
    "no rate for the body": ({"body_rate": 0.0}, r"body_rate \(=0.0\)"),
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


BAD_OPTIONS = {
    "warm_up": 1.5,
    "label_smoothing": -0.1,
    "temperature": 0.0,
    "optimizer": "lion",
    "precision": "int8",
    "ema": 1.0,
    "accumulate": 0,
    "workers": -1,
    "evaluate_every": 0,
    "target": 1.1,
    "keep": "first",
    "save_every": 0,
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_option_out_of_range_is_quoted(name):
    with pytest.raises(InvalidInputError, match=f"{name} \\(=.*{BAD_OPTIONS[name]}"):
        Options(**{name: BAD_OPTIONS[name]})
