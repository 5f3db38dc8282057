"""Runs the command line in the test's process, offline and in an empty folder."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

import i2p_zoo
from i2p_zoo.cli import main
from tests.finetune.conftest import shapes

FAST = ["--voxel-size", "0.2", "--steps", "2", "--batch-size", "6"]
BAR = "it/s]", "step/s]", "s/step]", "%|"


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """The folder of a small network, to read only."""
    return i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 clouds to train on and 15 to test, to read only."""
    path = tmp_path_factory.mktemp("clouds") / "shapes.npz"
    train_set, test_set = shapes(24), shapes(15)
    points = np.concatenate([train_set.points, test_set.points])
    labels = np.concatenate([train_set.labels, test_set.labels])
    np.savez(path, points=points, label=labels, split=np.repeat([0, 1], [24, 15]), classes=np.array(train_set.classes))
    return f"npz:{path}"


@pytest.fixture(autouse=True)
def offline_in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="i2p-zoo")


def succeed(*args):
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert not any(part in result.stdout for part in BAR)
    return result


def fail(*args):
    """Runs what must fail; returns the message without the progress that stands before it."""
    result = run(*args)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    before, mark, message = result.stderr.rpartition("i2p-zoo: ")
    assert mark, result.stderr
    assert "i2p-zoo: " not in before, "the error is told once"
    assert before == "" or before.endswith("\n"), "the error begins a line, not one of the bar's"
    return message.removesuffix("\n")


def subprocess_of(command, folder):
    """Runs a command as a user would, with no network to be had."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=500)


@pytest.fixture(scope="module")
def finished(network, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    options = ["--model", network, "--data", data, "--mode", "io+bn", *FAST, "--adapter", "--hold-out", "0.25"]
    arguments = [*map(str, ["finetune", *options, "--target", "1.0", "--out", out / "run"])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    return out / "run", result.stdout
