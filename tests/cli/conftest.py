"""Runs the command line in the test's process, offline and in an empty folder."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import i2p_zoo
from i2p_zoo.cli import main

BAR = "it/s]", "step/s]", "s/step]", "%|"


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """The folder of a small network, to read only."""
    return i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path_factory.mktemp("network"))


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
