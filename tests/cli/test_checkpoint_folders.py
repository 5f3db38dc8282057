"""Places beside a checkpoint's folder, which commands take for a slip and name the right one."""

from __future__ import annotations

import re

import pytest

import i2p_zoo
from tests.cli.conftest import fail


@pytest.fixture
def run_folder(tmp_path):
    """A folder as runs leave it, whose checkpoint is one level below."""
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "weights.pth").touch()
    return tmp_path / "run"


SLIPS = {
    "the run's folder": ("run", r"did you mean run/model\?"),
    "a file of a checkpoint": ("run/model/model.safetensors", r"is a file of a checkpoint; give its folder, run/model\."),
    "a file of weights": (
        "weights.pth",
        "is a file, and a network is loaded from a folder: .*i2p-zoo convert NAME --weights weights.pth",
    ),
}


LOADING = {
    "info": ["info", "PLACE"],
    "predict": ["predict", "PLACE", "cloud.npy"],
    "collapse": ["collapse", "PLACE", "--data", "npz:missing.npz"],
    "finetune": ["finetune", "--model", "PLACE", "--data", "npz:missing.npz", "--out", "out"],
    "fewshot": ["fewshot", "--model", "PLACE", "--data", "npz:missing.npz", "--out", "out"],
    "segment train": ["segment", "train", "--model", "PLACE", "--data", "scenes:missing.npz", "--out", "out"],
    "segment eval": ["segment", "eval", "PLACE", "--data", "scenes:missing.npz"],
}


@pytest.mark.parametrize(("place", "words"), SLIPS.values(), ids=SLIPS.keys())
@pytest.mark.parametrize("command", LOADING.values(), ids=LOADING.keys())
def test_place_beside_the_checkpoint_is_told_with_the_right_one(run_folder, command, place, words):
    assert re.search(words, fail(*[place if word == "PLACE" else word for word in command]))


def test_push_of_a_runs_folder_names_the_checkpoint_in_it(run_folder):
    assert "did you mean run/model?" in fail("push", "run", "me/net")
