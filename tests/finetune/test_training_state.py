"""Runs that go on: to the same bits after a kill, and with no training lost where the disk is full."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from i2p_zoo import CheckpointError, InvalidInputError
from i2p_zoo.finetune import Options, training_state
from i2p_zoo.finetune.training_state import STATE, TENSORS
from tests.finetune.conftest import assert_same_bits, figures, shapes, tiny, train, without_norms

ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from tests.finetune.conftest import shapes, tiny, train
for name, options in {runs!r}.items():
    child = os.fork()
    if not child:
        entries = iter(range(100))
        def report(entry):
            if next(entries) == 6:
                os.kill(os.getpid(), 9)
        options |= dict(save_every=2, monitor=shapes(9), evaluate_every=3, report=report)
        train(tiny(dropout=0.5), shapes(), folder=os.path.join(sys.argv[1], name), **options)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
RUNS = {
    "sgd": {},
    "adamw and average": {"optimizer": "adamw", "learning_rate": 0.01, "ema": 0.9},
    "best weights": {"keep": "best", "learning_rate": 1.0},
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with that of each run, killed after a few steps, in processes that load the libraries once."""
    folder = tmp_path_factory.mktemp("killed")
    code = KILLED.format(root=str(ROOT), runs=RUNS)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code, folder], env=environment, timeout=300, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(RUNS), done.stderr
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_run_that_was_killed_goes_on_to_the_same_bits(killed, name):
    options = RUNS[name]
    whole = tiny(dropout=0.5)
    expected = train(whole, shapes(), monitor=shapes(9), evaluate_every=3, **options)
    resumed, seen = tiny(dropout=0.5), []
    history = train(
        resumed,
        shapes(),
        folder=killed / name,
        save_every=2,
        monitor=shapes(9),
        evaluate_every=3,
        resume=True,
        report=seen.append,
        **options,
    )
    assert 0 < len([entry for entry in seen if hasattr(entry, "loss")]) < 8, "some steps were done before"
    assert figures(history) == figures(expected)
    assert_same_bits(resumed, whole.state_dict())


def test_finished_run_does_nothing_when_resumed(tmp_path):
    first, again, seen = tiny(), tiny(), []
    history = train(first, shapes(), folder=tmp_path)
    assert train(again, shapes(), folder=tmp_path, resume=True, report=seen.append) == history
    assert_same_bits(again, first.state_dict())
    assert seen == []


CHANGES = {
    "rate": ({"learning_rate": 0.1}, r"learning_rate was 0\.05 and is 0\.1"),
    "steps": ({"steps": 9}, "steps was 8 and is 9"),
}


@pytest.mark.parametrize(("changes", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_another_run_is_not_gone_on_with(tmp_path, changes, words):
    train(tiny(), shapes(), folder=tmp_path)
    with pytest.raises(InvalidInputError, match=words):
        train(tiny(), shapes(), folder=tmp_path, resume=True, **changes)


def test_other_clouds_or_another_network_are_not_gone_on_with(tmp_path):
    train(tiny(), shapes(), folder=tmp_path)
    moved = dataclasses.replace(shapes(), points=shapes().points + np.float32(0.01))
    frozen = tiny()
    frozen.frozen_norms = True
    for model, clouds in ((tiny(), shapes(21)), (tiny(), moved), (without_norms(), shapes()), (frozen, shapes())):
        with pytest.raises(InvalidInputError, match="network or clouds differ"):
            train(model, clouds, folder=tmp_path, resume=True)
    with pytest.raises(InvalidInputError, match="network or clouds differ"):
        train(tiny(), shapes(), monitor=shapes(9), folder=tmp_path, resume=True)


def test_run_is_not_written_over_unless_resumed(tmp_path):
    train(tiny(), shapes(), folder=tmp_path)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(InvalidInputError, match="resume it, or use another folder"):
        train(tiny(), shapes(), folder=tmp_path)
    assert (tmp_path / STATE).read_bytes() == before


DAMAGES = {
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "half the tensors": lambda folder: os.truncate(folder / TENSORS, 500),
    "no JSON": lambda folder: (folder / STATE).write_text("{"),
    "JSON of another kind": lambda folder: (folder / STATE).write_text("[]"),
    "step without its loss": lambda folder: (folder / STATE).write_text(
        '{"run": "", "options": {}, "history": {"steps": [{}]}}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_state_is_refused_by_its_folder(tmp_path, damage):
    train(tiny(), shapes(), folder=tmp_path)
    damage(tmp_path)
    model = tiny()
    with pytest.raises(CheckpointError, match=tmp_path.name):
        train(model, shapes(), folder=tmp_path, resume=True)
    assert_same_bits(model, tiny().state_dict())


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("fails", [(3,), (5,), (2, 3, 4, 5)], ids=["on the way", "at the end", "always"])
def test_full_disk_costs_no_training(tmp_path, monkeypatch, fails):
    expected = tiny()
    train(expected, shapes())
    saved = []
    save = training_state.save_training_state

    def sometimes(folder, state, options, run):
        saved.append(len(state.history.steps))
        if len(saved) in fails:
            full_disk()
        save(folder, state, options, run)

    monkeypatch.setattr(training_state, "save_training_state", sometimes)
    model = tiny()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(model, shapes(), folder=tmp_path, save_every=2)
    for number, warning in zip(fails, told, strict=True):
        assert f"after step {2 * number - 2} could not be saved ([Errno 28] No space left" in str(warning.message)
    assert saved == [0, 2, 4, 6, 8]
    assert_same_bits(model, expected.state_dict())


def test_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    seen, model = [], tiny()
    with pytest.raises(OSError, match="file"):
        train(model, shapes(), folder=tmp_path / "file" / "run", report=seen.append)
    assert seen == []
    assert_same_bits(model, tiny().state_dict())


def test_best_weights_are_in_the_model_though_the_disk_is_full(tmp_path, monkeypatch):
    expected, model = tiny(), tiny()
    options = {"monitor": shapes(9), "keep": "best", "evaluate_every": 1, "learning_rate": 0.5}
    train(expected, shapes(), **options)
    save = training_state.save_training_state

    def at_first(folder, state, *rest):
        if state.history.steps:
            full_disk()
        save(folder, state, *rest)

    monkeypatch.setattr(training_state, "save_training_state", at_first)
    with pytest.warns(UserWarning, match="No space left"):
        train(model, shapes(), folder=tmp_path, **options)
    assert_same_bits(model, expected.state_dict())


def test_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    train(tiny(), shapes(), folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = Options(steps=8, batch_size=6, learning_rate=0.05)
    monkeypatch.setattr(training_state, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        training_state.save_training_state(tmp_path, training_state.TrainingState(), options, "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_run_that_goes_on_saves_where_files_in_use_cannot_be_replaced(tmp_path, files_in_use):
    """As on Windows, where a state that is still mapped could not be written over."""
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), shapes(), folder=tmp_path, save_every=2, report=stop_after(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "cannot be saved"
        history = train(tiny(), shapes(), folder=tmp_path, save_every=2, resume=True)
    assert len(history.steps) == training_state.count_steps(tmp_path) == 8


def stop_after(steps):
    """A report that stops a run, as Ctrl-C does."""

    def report(entry):
        if entry.step == steps:
            raise KeyboardInterrupt

    return report
