"""A run's folder: figures that are those of the network in it, one measurement of the test split, no run lost or mixed up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from PIL import Image

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, MissingExtraError
from i2p_zoo.cli import main
from i2p_zoo.data import hold_out
from i2p_zoo.experiments import RunOptions, Setup, build_model, run, run_folder
from i2p_zoo.experiments.run_folder import write_json
from i2p_zoo.finetune import Options, adapt_statistics_, evaluate, fit_ridge_, trainer
from tests.finetune.conftest import shapes

ROOT = Path(__file__).parents[2]
OPTIONS = Options(steps=6, batch_size=6, learning_rate=0.05)


def setup_of(network, **changes):
    return Setup(str(network), voxel_size=0.2, skip_downsamples=3, **changes)


@pytest.fixture(scope="module")
def finished(network, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = replace(OPTIONS, evaluate_every=3)
    return folder, run(setup_of(network, mode="io+bn"), *splits, options, folder, RunOptions(held_out=0.25, tensorboard=True))


def test_metrics_are_those_of_the_saved_network(finished, splits):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    model = i2p_zoo.from_pretrained(folder / "model")
    accuracy = evaluate(model, splits[1])
    assert metrics["test"] == accuracy.to_dict()
    assert metrics["test"]["per_class"].keys() == set(splits[1].classes)
    assert [step["step"] for step in metrics["history"]] == [1, 2, 3, 4, 5, 6]
    assert [point["step"] for point in metrics["evaluations"]] == [3, 6]
    assert metrics["monitored"] == "held-out"
    assert 0 < metrics["trained"] < metrics["total"] == sum(p.numel() for p in model.parameters())
    assert list(model.pretrained_cfg["label_names"]) == ["rod x", "rod z", "ball"]


def test_precision_that_accelerate_sets_is_noted(network, splits, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    options = replace(OPTIONS, steps=1)
    metrics = run(setup_of(network, mode="io"), *splits, options, tmp_path, RunOptions(save=None))
    environment = metrics["environment"]
    assert (metrics["options"]["precision"], environment["precision"]) == ("bf16", "bf16")
    assert (environment["processes"], environment["threads"]) == (1, torch.get_num_threads())


def test_held_out_clouds_are_monitored_and_not_trained_on(finished, splits, network, monkeypatch, tmp_path):
    seen = {}

    def watch(model, task, **kwargs):
        seen.update(trained=task.clouds, monitored=task.monitor, votes=task.votes)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "train", watch)
    with pytest.raises(KeyboardInterrupt):
        run(setup_of(network), *splits, OPTIONS, tmp_path, RunOptions(held_out=0.25, votes=3))
    kept, held = hold_out(splits[0], 0.25)
    assert np.array_equal(seen["trained"].points, kept.points)
    assert np.array_equal(seen["monitored"].points, held.points)
    assert seen["votes"] == 3


def test_pictures_and_event_files_are_there(finished):
    folder, _ = finished
    for name in ("curves.png", "confusion.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
    (events,) = (folder / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"train/loss", b"train/learning_rate", b"monitored/top1"):
        assert tag in content
    assert not (folder / "training").exists(), "the state of a run that is done"


def test_adapter_holds_what_was_trained(network, splits, tmp_path):
    metrics = run(setup_of(network, mode="io+bn"), *splits, OPTIONS, tmp_path, RunOptions(save="adapter"))
    assert evaluate(i2p_zoo.from_pretrained(tmp_path / "adapter"), splits[1]).to_dict() == metrics["test"]


def test_votes_are_those_of_the_one_measurement(network, splits, tmp_path):
    metrics = run(setup_of(network), *splits, OPTIONS, tmp_path, RunOptions(votes=2))
    assert metrics["test"] == evaluate(i2p_zoo.from_pretrained(tmp_path / "model"), splits[1], votes=2).to_dict()
    with pytest.raises(InvalidInputError, match="votes was 2 and is 1"):
        run(setup_of(network), *splits, OPTIONS, tmp_path, RunOptions(resume=True))
    with pytest.raises(InvalidInputError, match=r"`votes` \(=0\)"):
        RunOptions(votes=0)


def test_a_setting_that_an_older_run_did_not_note_had_its_default(network, splits, tmp_path):
    setup = setup_of(network, stem="image", readout="pyramid", classifier="ridge", mode="head")
    options, run_options = replace(OPTIONS, steps=0), RunOptions(save=None, resume=True)
    metrics = run(setup, *splits, options, tmp_path, run_options)
    del metrics["setup"]["unlabelled"]
    write_json(tmp_path / "metrics.json", metrics)
    assert run(setup, *splits, options, tmp_path, run_options) == metrics
    with pytest.raises(InvalidInputError, match="unlabelled was no and is yes"):
        run(replace(setup, unlabelled=True), *splits, options, tmp_path, run_options, splits[1])


@pytest.mark.parametrize("saved", ["model", "adapter"])
def test_low_rank_changes_are_part_of_what_is_measured_and_saved(network, splits, tmp_path, monkeypatch, saved):
    setup = setup_of(network, mode="lora", lora_rank=2)
    metrics = run(setup, *splits, OPTIONS, tmp_path, RunOptions(save=saved))
    monkeypatch.setitem(sys.modules, "peft", None)
    model = i2p_zoo.from_pretrained(tmp_path / saved)
    plain, _ = build_model(setup_of(network), splits[0].classes)
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert evaluate(model, splits[1]).to_dict() == metrics["test"]
    assert metrics["trained"] < metrics["total"] / 4
    assert run(setup, *splits, OPTIONS, tmp_path, RunOptions(save=saved, resume=True)) == metrics, (
        "a finished one needs no PEFT"
    )


def test_low_rank_changes_go_on_after_a_stop(network, splits, tmp_path, monkeypatch):
    setup, options = setup_of(network, mode="lora"), replace(OPTIONS, save_every=2)
    whole = run(setup, *splits, options, tmp_path / "whole")
    update = trainer._Run.update

    def stop(self, number, share):
        if number == 3:
            raise KeyboardInterrupt
        return update(self, number, share)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Run, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            run(setup, *splits, options, tmp_path / "half")
    half = run(setup, *splits, options, tmp_path / "half", RunOptions(resume=True))
    assert half["test"] == whole["test"]
    states = [i2p_zoo.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "half")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    with pytest.raises(InvalidInputError, match="lora_rank was 8 and is 4"):
        run(replace(setup, lora_rank=4), *splits, options, tmp_path / "half", RunOptions(resume=True))


def test_what_draws_is_missed_before_training_and_figures_outlive_the_pictures(network, splits, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        patch.setattr(run_folder, "train", lambda *args, **kwargs: pytest.fail("the training has begun"))
        with pytest.raises(MissingExtraError, match=r"i2p-zoo\[finetune\]"):
            run(setup_of(network), *splits, OPTIONS, tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.pictures, "draw_curves", full)
    with pytest.raises(OSError, match="No space left"):
        run(setup_of(network), *splits, replace(OPTIONS, steps=1), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["history"]) == 1
    assert (tmp_path / "model").is_dir()
    monkeypatch.undo()
    again = run(setup_of(network), *splits, replace(OPTIONS, steps=1), tmp_path, RunOptions(resume=True))
    assert again["test"] == metrics["test"]
    assert {"curves.png", "confusion.png"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "training").exists()


def test_weights_are_never_chosen_on_the_test_split(network, splits, tmp_path):
    with pytest.raises(InvalidInputError, match="never on the test split"):
        run(setup_of(network), *splits, replace(OPTIONS, keep="best"), tmp_path, RunOptions(monitor_test=True))
    with pytest.raises(InvalidInputError, match="never on the test split"):
        run(setup_of(network), *splits, OPTIONS, tmp_path, RunOptions(monitor_test=True, held_out=0.1))
    assert list(tmp_path.iterdir()) == []


def test_finished_run_is_kept(finished, network, splits):
    folder, metrics = finished
    setup, options = setup_of(network, mode="io+bn"), replace(OPTIONS, evaluate_every=3)
    arguments = {"held_out": 0.25, "tensorboard": True}
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run(setup, *splits, options, folder, RunOptions(resume=True, **arguments)) == metrics
    with pytest.raises(InvalidInputError, match="holds a finished run"):
        run(setup, *splits, options, folder, RunOptions(**arguments))
    with pytest.raises(InvalidInputError, match="finished run of other settings"):
        run(setup, *splits, replace(options, seed=1), folder, RunOptions(resume=True, **arguments))
    assert (folder / "metrics.json").stat().st_mtime_ns == before


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from i2p_zoo.finetune import options, trainer
options.Options.save_every = 2
options.Options.__init__.__defaults__ = tuple(2 if d == 50 else d for d in options.Options.__init__.__defaults__)
note = trainer._Run.note
def kill(self, entry):
    note(self, entry)
    if getattr(entry, "loss", None) and entry.step == 5:
        os.kill(os.getpid(), 9)
trainer._Run.note = kill
from i2p_zoo.cli import main
main(sys.argv[1:])
"""


def finetune_command(network, npz, out, *more):
    data = ["--model", network, "--data", f"npz:{npz}", "--voxel-size", "0.2", "--steps", "7", "--batch-size", "6"]
    return [*map(str, ["finetune", *data, "--out", out, *more])]


def run_command(*command):
    """Runs a command in this process, which has imported what a new one would have to."""
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output


def call(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def figures_in(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return [{k: v for k, v in step.items() if k != "seconds"} for step in metrics["history"]], metrics["test"]


@pytest.fixture(scope="module")
def whole(network, npz, tmp_path_factory):
    """A run of the command that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run_command(*finetune_command(network, npz, out))
    return out


def test_command_that_was_killed_gives_the_same_history_when_resumed(network, npz, whole, tmp_path):
    killed = call("-c", KILLED.format(root=str(ROOT)), *finetune_command(network, npz, tmp_path / "run"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert len(json.loads((tmp_path / "run" / "training" / "training.json").read_text())["history"]["steps"]) == 4
    run_command(*finetune_command(network, npz, tmp_path / "run", "--resume"))
    assert figures_in(tmp_path / "run") == figures_in(whole)


def test_command_of_two_processes_gives_the_figures_of_one(network, npz, whole, tmp_path):
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "i2p_zoo"]
    done = call(*launch, *finetune_command(network, npz, tmp_path / "run", "--tensorboard"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    (steps, test), (expected, accuracy) = figures_in(tmp_path / "run"), figures_in(whole)
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in expected], abs=1e-4)
    assert test == accuracy
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.json"
    write_json(path, [1])
    values = object() if fails == "write" else [2]

    def full(*_):
        raise OSError(28, "No space left on device")

    if fails == "replace":
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises((OSError, TypeError)):
        write_json(path, values)
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def interrupt(monkeypatch, after):
    """Lets runs be interrupted at a step."""
    note = trainer._Run.note

    def stop(self, entry):
        note(self, entry)
        if entry.step == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer._Run, "note", stop)


OTHERS = {
    "scratch": ({"scratch": True}, {}, "scratch was no and is yes"),
    "mode": ({"mode": "io+stats"}, {}, r"mode was io and is io\+stats"),
    "held out": ({}, {"held_out": 0.5}, "held_out was 0.25 and is 0.5"),
    "clouds": ({}, {"splits": (shapes(24), shapes(12))}, r"clouds\.test was 15 and is 12"),
}


@pytest.mark.parametrize(("changes", "arguments", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_interrupted_run_goes_on_as_itself_alone(network, splits, tmp_path, monkeypatch, changes, arguments, words):
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(setup_of(network, mode="io"), *splits, replace(OPTIONS, save_every=2), tmp_path, RunOptions(held_out=0.25))
    setup = setup_of(network, **{"mode": "io", **changes})
    arguments = {"held_out": 0.25, **arguments}
    train_set, test_set = arguments.pop("splits", splits)
    with pytest.raises(InvalidInputError, match=f"state of a run of other settings: {words}"):
        run(setup, train_set, test_set, OPTIONS, tmp_path, RunOptions(resume=True, **arguments))
    metrics = run(setup_of(network, mode="io"), *splits, OPTIONS, tmp_path, RunOptions(resume=True, held_out=0.25))
    assert len(metrics["history"]) == 6
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "model", "metrics.json", "curves.png", "confusion.png"}


def test_a_run_of_a_version_that_noted_fewer_settings_is_this_one(finished, network, splits, tmp_path):
    _, metrics = finished
    older = json.loads(json.dumps(metrics))
    del older["setup"]["classifier"], older["options"]["body_rate"]
    write_json(tmp_path / "metrics.json", older)
    setup, options = setup_of(network, mode="io+bn"), replace(OPTIONS, evaluate_every=3)
    assert run(setup, *splits, options, tmp_path, RunOptions(resume=True, held_out=0.25)) == older
    with pytest.raises(InvalidInputError, match=r"mode was io\+bn and is io"):
        run(replace(setup, mode="io"), *splits, options, tmp_path, RunOptions(resume=True, held_out=0.25))


@pytest.mark.parametrize("held_out", [None, 0.25])
def test_statistics_and_a_classifier_are_those_of_the_clouds_that_are_trained_on(network, splits, tmp_path, held_out):
    setup = setup_of(network, mode="head", stem="image", statistics="clouds", classifier="ridge")
    run(setup, *splits, replace(OPTIONS, steps=0), tmp_path, RunOptions(held_out=held_out))
    model = i2p_zoo.from_pretrained(tmp_path / "model")
    clouds = splits[0] if held_out is None else hold_out(splits[0], held_out, OPTIONS.seed)[0]
    expected, _ = build_model(setup, clouds.classes, OPTIONS.seed)
    adapt_statistics_(expected, clouds)
    fit_ridge_(expected, clouds)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    assert not (tmp_path / "curves.png").exists(), "nothing was trained"


def test_a_network_without_statistics_takes_none_from_the_clouds(splits, tmp_path):
    network = i2p_zoo.create_model("test_vit").save_pretrained(tmp_path / "network")
    setup, options = setup_of(network, mode="head", stem="image", classifier="ridge"), replace(OPTIONS, steps=0)
    with pytest.raises(InvalidInputError, match=r"BatchNorm layers that keep them \(0\)"):
        run(replace(setup, statistics="clouds"), *splits, options, tmp_path / "clouds")


def test_views_are_kept_as_figures_alone(splits, tmp_path):
    setup = Setup("i2p-test_resnet", network="views", scratch=True, voxel_size=0.05)
    with pytest.raises(InvalidInputError, match="give save=None"):
        run(setup, *splits, OPTIONS, tmp_path / "no")
    metrics = run(setup, *splits, replace(OPTIONS, steps=1), tmp_path / "yes", RunOptions(save=None))
    assert metrics["trained"] == metrics["total"]


def test_finished_run_on_other_clouds_is_not_taken_for_this_one(finished, network, splits):
    folder, _ = finished
    setup, options = setup_of(network, mode="io+bn"), replace(OPTIONS, evaluate_every=3)
    moved = replace(splits[0], points=splits[0].points + np.float32(0.01))
    with pytest.raises(InvalidInputError, match="of other settings: the train data were others"):
        run(setup, moved, splits[1], options, folder, RunOptions(resume=True, held_out=0.25))


def test_options_on_which_no_step_depends_may_change(finished, network, splits):
    folder, metrics = finished
    setup, options = setup_of(network, mode="io+bn"), replace(OPTIONS, evaluate_every=3, save_every=7, workers=1)
    assert run(setup, *splits, options, folder, RunOptions(resume=True, held_out=0.25)) == metrics


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_figures_are_told_by_their_file(network, splits, tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"metrics\.json: cannot be read"):
        run(setup_of(network), *splits, OPTIONS, tmp_path, RunOptions(resume=True))


def test_two_processes_do_not_train_in_one_folder(network, splits, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(InvalidInputError, match="Another process is running in"):
        run(setup_of(network), *splits, OPTIONS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


REFUSED = {
    "a target on the test split": ({"target": 0.5}, {"monitor_test": True}, {}, "never on the test split"),
    "an adapter of random weights": ({}, {"save": "adapter"}, {"scratch": True}, r"image weights \(scratch=True\)"),
}


@pytest.mark.parametrize(("options", "arguments", "changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_told_before_training(network, splits, tmp_path, options, arguments, changes, words):
    with pytest.raises(InvalidInputError, match=words):
        run(setup_of(network, **changes), *splits, replace(OPTIONS, **options), tmp_path, RunOptions(**arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("changes", "words"), [({"held_out": 1}, "got 1"), ({"save": "all"}, "got 'all'")], ids=str)
def test_options_of_a_run_are_checked_once_and_first(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        RunOptions(**changes)


def test_test_split_has_the_same_classes_and_clouds(network, splits, tmp_path):
    other = replace(splits[1], classes=tuple(reversed(splits[1].classes)))
    with pytest.raises(InvalidInputError, match="those to judge by are ball"):
        run(setup_of(network), splits[0], other, OPTIONS, tmp_path)
    with pytest.raises(InvalidInputError, match=r"test clouds \(0\)"):
        run(setup_of(network), splits[0], splits[1].subset([]), OPTIONS, tmp_path)
