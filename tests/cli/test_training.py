"""The commands that train, as a user meets them."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import i2p_zoo
from i2p_zoo.cli import main
from i2p_zoo.cli.checkpoint_folders import load_network
from i2p_zoo.data import specs
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments import Setup
from i2p_zoo.experiments.methods import METHODS
from i2p_zoo.experiments.setup import DEFAULT_INFLATION, LEARNING_RATES
from i2p_zoo.finetune import freeze, train
from tests.cli.conftest import FAST, fail, run, succeed
from tests.finetune.conftest import shapes


def test_finetune_says_what_it_did_and_where(finished):
    folder, text = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test accuracy {100 * metrics['test']['top1']:.1f} %" in text
    assert f"of {metrics['clouds']['test']} clouds" in text
    parameters = f"{metrics['trained']:,d} of {metrics['total']:,d} parameters"
    assert f"trained {parameters} on {metrics['clouds']['train']} clouds" in text
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


def test_comparison_prints_its_table_and_names_its_methods(network, data):
    options = ["--methods", "all; frozen random, io+bn; ridge; chamfer", "--seeds", 2, *FAST, "--out", "compared"]
    lines = succeed("compare", "--model", network, "--data", data, *options).stdout.splitlines()
    runs = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[2:]}
    assert runs == {"all": "2", "frozen random, io+bn": "2", "ridge": "1", "chamfer": "1"}
    wrong = fail("compare", "--model", network, "--data", data, "--methods", "all,magic", "--out", "other")
    assert "got 'magic'" in wrong
    text = " ".join(succeed("compare", "--help").stdout.split())
    for name in METHODS:
        assert name.partition(",")[0] in text


def test_colours_are_compared_with_coordinates_and_with_both(network):
    options = ["--vary", "features=xyz;rgb;xyz,rgb", "--seeds", 1, *FAST, "--out", "colours"]
    lines = succeed("ablate", "--model", network, "--data", "kicad-mini", *options).stdout.splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["xyz", "rgb", "xyz,rgb"]
    for value, channels in (("rgb", 3), ("xyz-rgb", 6)):
        metrics = json.loads(Path(f"colours/features={value}-0/metrics.json").read_text())
        assert metrics["setup"]["features"] == value.replace("-", ",")
        assert Setup(**metrics["setup"]).in_chans == channels


def test_an_ablation_starts_from_a_method(network, data):
    options = ["--method", "scratch", "--vary", "learning_rate=0.1", "--shots", 1, "--seeds", 1, *FAST, "--out", "ablation"]
    succeed("ablate", "--model", network, "--data", data, *options)
    metrics = json.loads(Path("ablation/learning_rate=0.1-0/metrics.json").read_text())
    assert metrics["setup"]["scratch"]
    assert metrics["clouds"]["train"] == len(metrics["classes"])
    wrong = fail("ablate", "--model", network, "--data", data, "--method", "chamfer", "--out", "other")
    assert "no settings to vary" in wrong


def test_speedup_prints_both_curves_ends(network, data):
    options = ["--seeds", 1, "--evaluate-every", 1, "--budgets", "1", "--levels", "0.01,0.999", *FAST, "--out", "speed"]
    result = succeed("speedup", "--model", network, "--data", data, *options)
    assert "seed 0: target" in result.stdout
    assert "1 step of all: " in result.stdout
    assert "1 % after steps: all 1; scratch 1" in result.stdout
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
        rates = [LEARNING_RATES[mode] for mode in ("all", "lora", "io")]
        assert "{} by default for mode all, {} for lora, {} for others".format(*rates) in text
        assert LEARNING_RATES["all"] == 0.05
        others = LEARNING_RATES.keys() - {"all", "lora"}
        assert {LEARNING_RATES[mode] for mode in others} == {LEARNING_RATES["io"]}


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
    assert 'pip install "i2p-zoo[finetune]"' in fail(*command, "--picture", "a.png")


@pytest.mark.parametrize("command", PICTURES.values(), ids=PICTURES.keys())
def test_picture_of_an_unknown_ending_is_told_before_the_work_begins(command):
    assert "a.xyz: a picture ends in .png" in fail(*command, "--picture", "a.xyz")


def test_a_picture_that_a_full_disk_cuts_leaves_the_old_one(finished, monkeypatch):
    from matplotlib.figure import Figure

    def cut(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", cut)
    np.save("0.npy", shapes(1).points[0])
    Path("old.png").write_bytes(b"old")
    result = run("predict", finished[0] / "adapter", "0.npy", "--picture", "old.png")
    assert result.exit_code == 2
    assert result.stderr == "i2p-zoo: old.png: [Errno 28] No space left on device\n"
    assert result.stdout.startswith("0.npy: "), "the answer was given"
    assert sorted(path.name for path in Path().iterdir() if "png" in path.name) == ["old.png"]
    assert Path("old.png").read_bytes() == b"old"


def fail_in_first_batch(monkeypatch):
    from i2p_zoo.finetune import trainer

    def failing(self, number, samples):
        raise InvalidInputError("the first batch cannot be made")

    monkeypatch.setattr(trainer._Run, "update", failing)


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["anew", "resumed"])
def test_a_run_that_failed_in_its_first_batch_does_not_block_the_corrected_one(network, data, monkeypatch, more):
    options = ["finetune", "--model", network, "--data", data, *FAST, "--out", "run"]
    with monkeypatch.context() as patch:
        fail_in_first_batch(patch)
        assert "the first batch cannot be made" in fail(*options, "--features", "ones")
    succeed(*options, *more)
    assert json.loads(Path("run/metrics.json").read_text())["setup"]["features"] == "xyz"


def test_a_series_whose_run_failed_in_its_first_batch_goes_on_corrected(network, data, monkeypatch):
    options = [
        "fewshot",
        "--model",
        network,
        "--data",
        data,
        *FAST,
        "--shots",
        1,
        "--trials",
        1,
        "--methods",
        "all",
        "--out",
        "few",
    ]
    with monkeypatch.context() as patch:
        fail_in_first_batch(patch)
        fail(*options, "--features", "ones")
    succeed(*options)


def interrupt(monkeypatch, step):
    """Presses Ctrl-C within a step."""
    from i2p_zoo.finetune import trainer

    update = trainer._Run.update

    def interrupted(self, number, samples):
        if number + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return update(self, number, samples)

    monkeypatch.setattr(trainer._Run, "update", interrupted)


def test_ctrl_c_says_how_to_resume_and_the_run_goes_on_from_there(network, data, monkeypatch):
    options = ["finetune", "--model", network, "--data", data, *FAST[:2], "--steps", 4, "--batch-size", 6, "--out", "run"]
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        result = run(*options)
    assert (result.exit_code, result.stdout) == (130, "")
    last = result.stderr.splitlines()[-1]
    assert last == "i2p-zoo: interrupted: run holds the state after step 2; the same command with --resume goes on from there."
    assert "resume it, or use another folder" in fail(*options), "what was trained is not thrown away"
    steps = []
    with monkeypatch.context() as patch:
        from i2p_zoo.finetune import trainer

        update = trainer._Run.update
        patch.setattr(trainer._Run, "update", lambda self, number, s: steps.append(number + 1) or update(self, number, s))
        succeed(*options, "--resume")
    assert steps == [3, 4]


def test_ctrl_c_before_the_first_step_and_in_a_series_say_what_to_do(network, data, monkeypatch):
    options = ["--model", network, "--data", data, *FAST, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr("i2p_zoo.experiments.setup.freeze", lambda *args: signal.raise_signal(signal.SIGINT))
        result = run("finetune", *options)
    assert result.stderr.splitlines()[-1] == "i2p-zoo: interrupted: nothing was trained; run the same command again."
    interrupt(monkeypatch, 1)
    result = run("fewshot", *options[:-1], "few", "--shots", 1, "--trials", 1, "--methods", "all")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "i2p-zoo: interrupted: few holds what was trained; the same command goes on from there."
    )


@pytest.fixture
def half_normals(tmp_path):
    """A folder data set in which all files but one have normals."""
    for name in ("a/train/0", "a/test/0", "b/train/0", "b/train/1", "b/test/0"):
        path = tmp_path / "half" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        points = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
        normals = points / np.linalg.norm(points, axis=1, keepdims=True)
        np.savez(path, points=points, **({} if name == "b/train/1" else {"normals": normals}))
    return "folder:half"


COMMANDS_OF_CLOUDS = {
    "finetune": ["finetune", "--features", "xyz,normals"],
    "fewshot": ["fewshot", "--features", "xyz,normals", "--shots", "1", "--methods", "all"],
    "ablate": ["ablate", "--vary", "features=ones;xyz,normals"],
}


@pytest.mark.filterwarnings("ignore:1 of 5 files have no normals")
@pytest.mark.parametrize("command", COMMANDS_OF_CLOUDS.values(), ids=COMMANDS_OF_CLOUDS)
def test_a_feature_that_one_file_lacks_is_told_before_training_by_that_file(network, half_normals, command, monkeypatch):
    from i2p_zoo.experiments import run_folder

    monkeypatch.setattr(run_folder, "train", lambda *args, **kwargs: pytest.fail("the training has begun"))
    message = fail(*command, "--model", network, "--data", half_normals, *FAST, "--out", "run")
    assert "The clouds have no normals" in message
    assert str(Path("half/b/train/1.npz")) in message
    assert "mapping" not in message


SPECS = {
    "shapes.npz": r"Did you mean npz:shapes\.npz\?",
    "npzz:shapes.npz": r"Did you mean npz:shapes\.npz\?",
    "npz:shaeps.npz": r"shaeps\.npz: no such file\..* Did you mean shapes\.npz\?",
    "objects": r"Did you mean folder:objects\?",
    "folder:object": r"object: no such folder\..* Did you mean objects\?",
    "kicad-mni": r"Did you mean kicad-mini\?",
    "npz:": r"Did you mean npz:PATH\?",
}


@pytest.mark.parametrize(("spec", "words"), SPECS.items(), ids=SPECS)
def test_a_data_set_that_is_misspelt_is_told_with_what_is_near(network, spec, words):
    Path("shapes.npz").touch()
    Path("objects").mkdir()
    message = fail("finetune", "--model", network, "--data", spec, *FAST, "--out", "run")
    assert re.search(words, message), message


def test_networks_run_on_the_gpu_where_there_is_one(network, monkeypatch):
    moved = []
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.nn.Module.to", lambda module, device=None, **others: moved.append(device) or module)
    loaded = load_network(str(network), "auto")
    assert (loaded.architecture, moved[-1]) == ("test_resnet", torch.device("cuda"))


def test_every_command_that_trains_or_runs_a_network_takes_the_device(network, data, tmp_path):
    np.save("cloud.npy", np.zeros((8, 3), np.float32))
    training = ["--model", network, "--data", data, *FAST, "--out", "run"]
    commands = {name: [name, *training] for name in ("finetune", "fewshot", "speedup", "ablate")}
    commands["predict"] = ["predict", network, "cloud.npy"]
    commands["collapse"] = ["collapse", network, "--data", data]
    commands["segment predict"] = ["segment", "predict", network, "cloud.npy"]
    commands["segment eval"] = ["segment", "eval", network, "--data", "scenes:none.npz"]
    commands["segment train"] = ["segment", "train", "--model", network, "--data", "scenes:none.npz", "--out", "run"]
    commands["demo"] = ["demo", "--out", "run"]
    for name, command in commands.items():
        for device, words in (
            ("cuda:99", "There is no device cuda:99: torch has cpu"),
            ("gpu", "must be 'auto', 'cpu', 'cuda'"),
        ):
            message = fail(*command, "--device", device)
            assert words in message, (name, message)
            assert "\n" not in message
    assert not (tmp_path / "run").exists()
    assert succeed("predict", network, "cloud.npy", "--as-is", "--device", "cpu").stdout.startswith("cloud.npy: ")


def test_a_run_notes_the_device_and_the_precision_that_it_had(network, data, tmp_path):
    succeed("finetune", "--model", network, "--data", data, *FAST, "--device", "cpu", "--out", "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["environment"]["device"], metrics["environment"]["precision"]) == ("cpu", "no")
    assert metrics["options"]["precision"] == "no"
