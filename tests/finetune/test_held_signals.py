"""Ctrl-C and termination wait until a step is whole and saved, and then do what they would have done."""

from __future__ import annotations

import signal
import threading

import pytest

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune import trainer, training_state
from i2p_zoo.finetune.held_signals import HeldSignals
from tests.finetune.conftest import figures, shapes, tiny, train


def test_the_first_signal_waits_and_the_second_comes_at_once():
    with HeldSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_waited_reaches_the_handler_that_was_there(monkeypatch):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with HeldSignals() as signals:
            signal.raise_signal(signal.SIGTERM)
            assert received == []
            signals.deliver()
            assert received == [signal.SIGTERM]
            signals.deliver()
            assert received == [signal.SIGTERM], "once"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_ignored_stays_ignored_and_other_threads_hold_nothing():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.number is None
    finally:
        signal.signal(signal.SIGINT, before)
    caught = []

    def enter():
        try:
            with HeldSignals():
                pass
        except ValueError as error:  # "signal only works in main thread"
            caught.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert caught == []


@pytest.mark.parametrize("step", [1, 3, 6])
def test_training_that_is_interrupted_within_a_step_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, step):
    """The last step is among them: its state is saved too."""
    options = {"steps": 6, "folder": tmp_path}
    whole = train(tiny(), shapes(), steps=6)
    update = trainer._Run.update

    def interrupted(self, number, samples):
        if number + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return update(self, number, samples)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), shapes(), **options)
    assert training_state.count_steps(tmp_path) == step
    assert figures(train(tiny(), shapes(), resume=True, **options)) == figures(whole)


def test_without_a_folder_nothing_is_held(monkeypatch):
    steps = []
    update = trainer._Run.update

    def interrupted(self, number, samples):
        signal.raise_signal(signal.SIGINT)
        steps.append(number)
        return update(self, number, samples)

    monkeypatch.setattr(trainer._Run, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), shapes())
    assert steps == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_failed_in_its_first_batch_does_not_stand_in_the_way_of_the_next(tmp_path, monkeypatch, resume):
    def failing(self, number, samples):
        raise RuntimeError("the first batch")

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "update", failing)
        with pytest.raises(RuntimeError, match="the first batch"):
            train(tiny(), shapes(), folder=tmp_path, steps=5)
    assert training_state.count_steps(tmp_path) == 0
    assert len(train(tiny(), shapes(), folder=tmp_path, steps=3, resume=resume).steps) == 3
    with pytest.raises(InvalidInputError, match="holds the state of a training run"):
        train(tiny(), shapes(), folder=tmp_path, steps=3)
