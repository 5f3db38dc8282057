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
from PIL import Image

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.data import hold_out
from i2p_zoo.experiments import Setup, run, runs
from i2p_zoo.experiments.runs import write_json
from i2p_zoo.finetune import Options, evaluate

ROOT = Path(__file__).parents[2]
OPTIONS = Options(steps=6, batch_size=6, learning_rate=0.05)


def setup_of(network, **changes):
    return Setup(str(network), voxel_size=0.2, skip_downsamples=3, **changes)


@pytest.fixture(scope="module")
def finished(network, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = replace(OPTIONS, evaluate_every=3)
    return folder, run(setup_of(network, mode="io+bn"), *splits, options, folder, held_out=0.25, tensorboard=True)


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


def test_held_out_clouds_are_monitored_and_not_trained_on(finished, splits, network, monkeypatch, tmp_path):
    seen = {}

    def watch(model, clouds, *, monitor, **kwargs):
        seen.update(trained=clouds, monitored=monitor)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", watch)
    with pytest.raises(KeyboardInterrupt):
        run(setup_of(network), *splits, OPTIONS, tmp_path, held_out=0.25)
    kept, held = hold_out(splits[0], 0.25)
    assert np.array_equal(seen["trained"].points, kept.points)
    assert np.array_equal(seen["monitored"].points, held.points)


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
    metrics = run(setup_of(network, mode="io+bn"), *splits, OPTIONS, tmp_path, save="adapter")
    assert evaluate(i2p_zoo.from_pretrained(tmp_path / "adapter"), splits[1]).to_dict() == metrics["test"]


def test_weights_are_never_chosen_on_the_test_split(network, splits, tmp_path):
    with pytest.raises(InvalidInputError, match="never on the test split"):
        run(setup_of(network), *splits, replace(OPTIONS, keep="best"), tmp_path, monitor_test=True)
    with pytest.raises(InvalidInputError, match="never on the test split"):
        run(setup_of(network), *splits, OPTIONS, tmp_path, monitor_test=True, held_out=0.1)
    assert list(tmp_path.iterdir()) == []


def test_finished_run_is_kept(finished, network, splits):
    folder, metrics = finished
    setup, options = setup_of(network, mode="io+bn"), replace(OPTIONS, evaluate_every=3)
    arguments = {"held_out": 0.25, "tensorboard": True}
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run(setup, *splits, options, folder, resume=True, **arguments) == metrics
    with pytest.raises(InvalidInputError, match="holds a finished run"):
        run(setup, *splits, options, folder, **arguments)
    with pytest.raises(InvalidInputError, match="finished run of other settings"):
        run(setup, *splits, replace(options, seed=1), folder, resume=True, **arguments)
    assert (folder / "metrics.json").stat().st_mtime_ns == before


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from i2p_zoo.finetune import trainer
note = trainer._Run.note
def kill(self, entry):
    note(self, entry)
    if getattr(entry, "loss", None) and entry.step == 5:
        os.kill(os.getpid(), 9)
trainer._Run.note = kill
from i2p_zoo.cli import main
main(sys.argv[1:])
"""


def test_command_that_was_killed_gives_the_same_history_when_resumed(network, npz, tmp_path):
    def command(out, *more):
        data = ["--model", network, "--data", f"npz:{npz}", "--voxel-size", "0.2", "--steps", "7", "--batch-size", "6"]
        return [*map(str, ["finetune", *data, "--out", tmp_path / out, *more])]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = KILLED.format(root=str(ROOT)).replace("import os, sys", "import os, sys\nfrom i2p_zoo.finetune import options")
    code = code.replace("from i2p_zoo.cli", "options.Options.__dataclass_fields__['save_every'].default = 2\nfrom i2p_zoo.cli")
    whole = subprocess.run(
        [sys.executable, "-m", "i2p_zoo", *command("whole")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.run([sys.executable, "-c", code, *command("killed")], env=environment, cwd=ROOT, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.json").exists()
    again = subprocess.run(
        [sys.executable, "-m", "i2p_zoo", *command("killed", "--resume")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    histories = []
    for out in ("whole", "killed"):
        metrics = json.loads((tmp_path / out / "metrics.json").read_text())
        histories.append([{k: v for k, v in step.items() if k != "seconds"} for step in metrics["history"]])
        histories.append(metrics["test"])
    assert histories[:2] == histories[2:]


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
