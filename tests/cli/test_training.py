"""The commands that train and those that look at what was trained, as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import i2p_zoo
from i2p_zoo.cli import main
from i2p_zoo.cli.checkpoint_folders import load_network
from i2p_zoo.data import specs
from i2p_zoo.experiments import Setup
from i2p_zoo.experiments.setup import DEFAULT_INFLATION, LEARNING_RATES, SCRATCH_LEARNING_RATE
from i2p_zoo.finetune import freeze, train
from tests.cli.conftest import fail, succeed
from tests.finetune.conftest import shapes

FAST = ["--voxel-size", "0.2", "--steps", "2", "--batch-size", "6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("clouds") / "shapes.npz"
    train_set, test_set = shapes(24), shapes(15)
    points = np.concatenate([train_set.points, test_set.points])
    labels = np.concatenate([train_set.labels, test_set.labels])
    np.savez(path, points=points, label=labels, split=np.repeat([0, 1], [24, 15]), classes=np.array(train_set.classes))
    return f"npz:{path}"


@pytest.fixture(scope="module")
def finished(network, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    options = ["--model", network, "--data", data, "--mode", "io+bn", *FAST, "--adapter", "--hold-out", "0.25"]
    arguments = [*map(str, ["finetune", *options, "--target", "1.0", "--out", out / "run"])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    return out / "run", result.stdout


def test_finetune_says_what_it_did_and_where(finished):
    folder, text = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test accuracy {100 * metrics['test']['top1']:.1f} %" in text
    assert f"trained {metrics['trained']:,d} of {metrics['total']:,d} parameters" in text
    assert "target 100.0 % never reached" in text
    assert f"in {folder}: adapter, metrics.json, curves.png, confusion.png" in text
    for name in ("adapter", "metrics.json", "curves.png", "confusion.png"):
        assert (folder / name).exists()


def test_epochs_are_counted_in_clouds(network, data, tmp_path):
    succeed(
        "finetune", "--model", network, "--data", data, "--voxel-size", 0.2, "--epochs", 0.5, "--batch-size", 6, "--out", "run"
    )
    assert len(json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]) == 2
    options = ["--model", network, "--data", data, "--voxel-size", 0.2, "--epochs", 1, "--batch-size", 6]
    succeed("finetune", *options, "--shots", 4, "--hold-out", 0.5, "--out", "few")
    assert len(json.loads((tmp_path / "few" / "metrics.json").read_text())["history"]) == 1, "six clouds are trained on"
    for value in (-3, "nan", 0):
        assert "--epochs must be a positive number" in fail("finetune", *options, "--epochs", value, "--out", "other")


def test_json_is_one_object_without_the_history(network, data):
    result = succeed("finetune", "--model", network, "--data", data, *FAST, "--shots", 2, "--scratch", "--out", "run", "--json")
    printed = json.loads(result.stdout)
    assert printed["clouds"]["train"] == 6
    assert printed["setup"]["scratch"] is True
    assert "history" not in printed


def test_teacher_labels_the_clouds(network, data, finished, tmp_path):
    train_set = shapes(24)
    teacher = i2p_zoo.from_pretrained(network, num_classes=3, voxel_size=0.2, stem="point")
    freeze(teacher, "all")
    train(teacher, train_set, steps=8, batch_size=8)
    teacher.save_pretrained("teacher")
    options = ["--model", network, "--data", data, *FAST, "--teacher", "teacher"]
    succeed("finetune", *options, "--temperature", 2, "--out", "soft")
    succeed("finetune", *options, "--threshold", 0.34, "--out", "hard")
    message = fail("finetune", *options, "--threshold", 1.0, "--out", "none")
    assert "sure of no cloud" in message
    assert not (tmp_path / "none" / "metrics.json").exists()


def test_fewshot_prints_its_table(network, data):
    options = ["--shots", "1,2", "--trials", 1, "--methods", "scratch,all", *FAST]
    result = succeed("fewshot", "--model", network, "--data", data, *options, "--out", "few")
    lines = result.stdout.splitlines()
    assert lines[0] == "| | 1-shot | 2-shot |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["scratch", "all"]


def test_speedup_prints_both_curves_ends(network, data):
    options = ["--seeds", 1, "--evaluate-every", 1, "--budgets", "1", *FAST, "--out", "speed"]
    result = succeed("speedup", "--model", network, "--data", data, *options)
    assert "seed 0: target" in result.stdout
    assert "image weights" in result.stdout
    assert "1 steps with image weights end at" in result.stdout
    assert "scratch" in result.stdout


def test_ablation_prints_its_table(network, data):
    options = ["--vary", "skip_downsamples=1;2", "--vary", "stem=image", "--seeds", 1, *FAST, "--out", "ablation"]
    lines = succeed("ablate", "--model", network, "--data", data, *options).stdout.splitlines()
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" skip_downsamples ", " 1 "],
        [" skip_downsamples ", " 2 "],
        [" stem ", " image "],
    ]
    booleans = ["--vary", "augmented=True;False", "--seeds", 1, *FAST, "--out", "booleans"]
    succeed("ablate", "--model", network, "--data", data, *booleans)
    losses = [json.loads(path.read_text())["history"][0]["loss"] for path in Path("booleans").glob("*/metrics.json")]
    assert len(set(losses)) == 2
    twice = ["--vary", "stem=image", "--vary", "stem=point", "--out", "other"]
    assert "each setting once" in fail("ablate", "--model", network, "--data", data, *twice)
    assert "SETTING=A;B;" in fail("ablate", "--model", network, "--data", data, "--vary", "stem", "--out", "other")


MISUSES = {
    "steps and epochs": (["--steps", 2, "--epochs", 1], "--steps or --epochs, not both"),
    "adapter of random weights": (["--scratch", "--adapter"], "leave one of them out"),
    "threshold of no teacher": (["--threshold", 0.5], "give --teacher FOLDER"),
    "AdamW without a rate": (["--optimizer", "adamw"], "the default learning rates are SGD's"),
    "best of nothing": (["--keep", "best"], "--keep best needs a part of the training split to judge by: give --hold-out 0.2"),
    "target of nothing": (["--target", 0.9], "--target 0.9 needs a part"),
    "best of the test split": (
        ["--keep", "best", "--monitor-test"],
        "never on the test split: leave out --monitor-test, and give --hold-out 0.2 for --keep best.",
    ),
    "both splits": (["--hold-out", 0.2, "--monitor-test"], "never on the test split: leave out --monitor-test."),
    "too many shots": (["--shots", 99], "99 shots of each class are asked for"),
    "features that are not there": (["--features", "xyz,normals"], "normals"),
    "unknown features": (["--features", "smell"], "'smell'"),
}


@pytest.mark.parametrize(("arguments", "words"), MISUSES.values(), ids=MISUSES.keys())
def test_misuse_is_one_line_and_leaves_no_figures(network, data, tmp_path, arguments, words):
    assert words in fail("finetune", "--model", network, "--data", data, *arguments, "--out", "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


BEFORE_DATA = {
    "misspelt network": (["--model", "i2p-test_resnte"], "Did you mean i2p-test_resnet"),
    "negative voxel": (["--voxel-size", "-1"], "--voxel-size"),
    "unknown features": (["--features", "smell"], "smell"),
    "smoothing of two": (["--label-smoothing", "2"], "--label-smoothing"),
}


@pytest.mark.parametrize(("arguments", "words"), BEFORE_DATA.values(), ids=BEFORE_DATA)
@pytest.mark.parametrize("command", [["finetune"], ["fewshot"], ["segment", "train"]], ids=" ".join)
def test_what_needs_no_data_is_told_before_they_are_read(command, arguments, words):
    data = "scenes:missing.npz" if "segment" in command else "npz:missing.npz"
    model = [] if "--model" in arguments else ["--model", "i2p-test_resnet"]
    result = CliRunner().invoke(main, [*command, *model, "--data", data, *arguments, "--out", "run"])
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "missing.npz" not in result.stderr


REAL_DEFAULTS = {
    "finetune": "by default 300",
    "fewshot": "by default 100",
    "speedup": "by default 300",
    "ablate": "by default 300",
    "segment train": "by default 0.01 with adamw and 0.2 with sgd",
}


@pytest.mark.parametrize(("command", "words"), REAL_DEFAULTS.items(), ids=REAL_DEFAULTS.keys())
def test_help_and_options_have_the_defaults_that_runs_have(command, words):
    text = " ".join(succeed(*command.split(), "--help").stdout.split())
    assert words in text
    assert f"By default {DEFAULT_INFLATION}, and of a folder its own" in text
    skipped = 1 if command == "segment train" else Setup("a").skip_downsamples
    for default in (skipped, Setup("a").voxel_size, Setup("a").features):
        assert f"[default: {default}" in text
    if command != "segment train":
        assert f"by default {LEARNING_RATES['all']} for mode all and from scratch, and {LEARNING_RATES['io']} for other" in text
        assert {LEARNING_RATES["all"], SCRATCH_LEARNING_RATE} == {0.05}
        assert {rate for mode, rate in LEARNING_RATES.items() if mode != "all"} == {LEARNING_RATES["io"]}


LOADERS = [("finetune", specs._CLOUD_LOADERS), ("segment train", specs._SCENE_LOADERS)]


@pytest.mark.parametrize(("command", "loaders"), LOADERS, ids=["clouds", "scenes"])
def test_help_describes_every_kind_of_data(command, loaders):
    lines = succeed(*command.split(), "--help").stdout.splitlines()
    assert all(any(line.strip().startswith(f"{kind}:") for line in lines) for kind in loaders)


def test_probe_of_a_finetuned_network_is_refused_before_any_run(data, finished, tmp_path):
    options = ["--model", finished[0] / "adapter", "--data", data, *FAST, "--shots", 1, "--out", "few"]
    assert "leave probe out of the methods" in fail("fewshot", *options)
    assert not (tmp_path / "few").exists()


def test_image_stem_that_a_folder_lost_is_told_with_what_to_do(data, finished):
    message = fail("finetune", "--model", finished[0] / "adapter", "--data", data, *FAST, "--stem", "image", "--out", "run")
    assert "a folder that was finetuned with `--stem image`" in message


def test_values_to_vary_are_told_by_their_kind(network, data):
    for wrong in ("voxel_size=a", "features=5"):
        message = fail("ablate", "--model", network, "--data", data, "--vary", wrong, *FAST, "--out", "ablation")
        assert "each by values of its kind" in message


PICTURES = {
    "predict": ["predict", "missing/network", "missing.npy"],
    "collapse": ["collapse", "missing/network", "--data", "npz:missing.npz"],
}


@pytest.mark.parametrize("command", PICTURES.values(), ids=PICTURES.keys())
def test_picture_that_cannot_be_drawn_is_told_before_the_work_begins(command, monkeypatch):
    assert "nofolder is no folder" in fail(*command, "--picture", "nofolder/a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'i2p-zoo[finetune]'" in fail(*command, "--picture", "a.png")


def test_predict_names_classes_and_draws(finished, tmp_path):
    folder, _ = finished
    clouds = shapes(3)
    for number, points in enumerate(clouds.points):
        np.save(tmp_path / f"{number}.npy", points)
    result = succeed("predict", folder / "adapter", "0.npy", "1.npy", "2.npy", "--picture", "classes.png")
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["0.npy", "1.npy", "2.npy"]
    assert all(any(name in line for name in clouds.classes) for line in lines[:3])
    with Image.open("classes.png") as picture:
        assert min(picture.size) > 100
    printed = json.loads(succeed("predict", folder / "adapter", "0.npy", "--json", "--top", 3).stdout)
    assert sum(printed["0.npy"].values()) == pytest.approx(1, abs=1e-5)


def test_predict_names_the_file_that_cannot_be_read(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "bad.off").write_text("no mesh")
    for name in ("bad.off", "missing.ply"):
        assert name in fail("predict", folder / "adapter", name)


def test_predict_takes_the_columns_of_a_binary_cloud(finished, tmp_path):
    folder, _ = finished
    np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32).tofile(tmp_path / "a.bin")
    assert "columns=4 (KITTI" in fail("predict", folder / "adapter", "a.bin")
    assert "a.bin: " in succeed("predict", folder / "adapter", "a.bin", "--columns", "x,y,z,nx,ny,nz").stdout


def test_networks_run_on_the_gpu_where_there_is_one(network, monkeypatch):
    moved = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.nn.Module.to", lambda module, device: moved.append(device) or module)
    loaded = load_network(str(network))
    assert (loaded.architecture, moved[-1]) == ("test_resnet", "cuda")


def test_collapse_prints_and_draws_the_four_figures(finished, data, tmp_path):
    folder, _ = finished
    result = succeed("collapse", folder / "adapter", "--data", data, "--picture", "collapse.png")
    assert all(name in result.stdout for name in ("nc1", "nc2_norms_means", "nc3", "nc4"))
    assert (tmp_path / "collapse.png").stat().st_size > 1000
    printed = json.loads(succeed("collapse", folder / "adapter", "--data", data, "--json").stdout)
    assert printed[str(folder / "adapter")]["nc1"] > 0
