"""`finetune` without a step: few labels, all of them, and clouds without any."""

from __future__ import annotations

import json
import re

import numpy as np

import i2p_zoo
from tests.cli.conftest import fail, succeed
from tests.finetune.conftest import shapes


def test_few_labels_are_learnt_without_a_step_unless_told_otherwise(network, data, tmp_path):
    options = ["finetune", "--model", network, "--data", data, "--voxel-size", 0.2, "--shots", 2]
    result = succeed(*options, "--out", "few")
    metrics = json.loads((tmp_path / "few" / "metrics.json").read_text())
    assert {key: metrics["setup"][key] for key in ("mode", "stem", "readout", "classifier")} == {
        "mode": "head", "stem": "image", "readout": "pyramid+views", "classifier": "ridge"
    }  # fmt: skip
    assert metrics["history"] == []
    chosen = "--mode head --stem image --readout pyramid+views --classifier ridge --steps 0"
    assert f"solved for, not trained: {chosen}" in result.stdout
    assert "in few: model, metrics.json, confusion.png\n" in result.stdout, "without steps there are no curves"
    assert not (tmp_path / "few" / "curves.png").exists()
    assert type(i2p_zoo.from_pretrained(tmp_path / "few" / "model")) is i2p_zoo.PyramidClassifier
    succeed(*options, "--statistics", "image", "--out", "image")
    setup = json.loads((tmp_path / "image" / "metrics.json").read_text())["setup"]
    assert (setup["statistics"], setup["readout"]) == ("image", "pyramid+views")
    succeed(*options, "--features", "ones", "--out", "ones")
    assert json.loads((tmp_path / "ones" / "metrics.json").read_text())["setup"]["readout"] == "pyramid"
    succeed(*options, "--steps", 1, "--batch-size", 6, "--out", "trained")
    setup = json.loads((tmp_path / "trained" / "metrics.json").read_text())["setup"]
    assert (setup["mode"], setup["readout"], setup["statistics"]) == ("all", "last", "image")
    assert "at least one, or the classifier ridge" in fail(*options, "--steps", 0, "--mode", "io", "--out", "untrained")
    assert "solved for, not trained" in succeed(*options[:-2], "--steps", 0, "--out", "solved").stdout


def test_unlabelled_clouds_of_a_folder_are_taken_too(network, data, tmp_path):
    for number, points in enumerate(shapes(6).points):
        path = tmp_path / "many" / f"part {number % 2}" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, points[::-1])
    options = ["finetune", "--model", network, "--data", data, "--voxel-size", 0.2]
    result = succeed(*options, "--unlabelled", tmp_path / "many", "--out", "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["unlabelled"]["clouds"] == 6
    assert (metrics["setup"]["unlabelled"], metrics["setup"]["readout"]) == (True, "pyramid+views")
    assert "solved for" in result.stdout
    assert re.search(r"on 24 clouds and 6 unlabelled clouds in \d+ s\n", result.stdout)
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "24 clouds to train on and 6 without labels" in card
    assert "those that the 2D network has of six depth images" in card
    assert "got classifier='random'" in fail(*options, "--unlabelled", tmp_path / "many", "--steps", 1, "--out", "trained")
    assert "leave one out" in fail(
        *options, "--unlabelled", tmp_path / "many", "--teacher", tmp_path / "run/model", "--out", "t"
    )
    assert "unlabelled takes columns" in fail(*options, "--unlabelled", f"{tmp_path / 'many'},test=val", "--out", "other")
    assert "there is no file of" in fail(*options, "--unlabelled", tmp_path / "run", "--out", "none")


def test_labelled_clouds_in_the_folder_are_left_out_and_test_clouds_told(network, tmp_path):
    for number, (points, label) in enumerate(zip(shapes(24).points, shapes(24).labels, strict=True)):
        path = tmp_path / "all" / str(label) / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, points)
    options = ["--model", network, "--data", f"folder:{tmp_path / 'all'}", "--voxel-size", 0.2, "--shots", 1]
    result = succeed("finetune", *options, "--unlabelled", tmp_path / "all", "--out", "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    tested = metrics["clouds"]["test"]
    assert metrics["unlabelled"]["clouds"] == 21
    assert f"3 clouds with labels left out; {tested} test clouds among the others" in result.stderr


def test_few_labels_of_a_finetuned_folder_are_learnt_without_views(data, tmp_path):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["i2p"]["certificate"] = {"errors": {}, "finetuned": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    options = ["--model", tmp_path / "base", "--data", data, "--voxel-size", 0.2, "--shots", 1, "--out", "run"]
    assert "--readout pyramid --classifier" in succeed("finetune", *options).stdout
