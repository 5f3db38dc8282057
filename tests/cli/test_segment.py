"""The commands about classes of points, as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import i2p_zoo
from i2p_zoo.cli import main
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.cli.conftest import fail, run, succeed
from tests.segmentation.conftest import CLASSES, make_scene
from tests.segmentation.conftest import scenes_npz as scenes_npz

FAST = ["--voxel-size", "0.2", "--steps", "2", "--batch-size", "2"]


@pytest.fixture(scope="module")
def finished(network, scenes_npz, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", "--mode", "io+bn", *FAST, "--crop", "2", "--block", "2"]
    result = CliRunner().invoke(main, [*map(str, ["segment", "train", *options, "--out", out])])
    assert result.exit_code == 0, result.stderr
    return out, result.stdout


def test_training_says_what_it_measured_and_where(finished):
    folder, text = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test mIoU {100 * metrics['test']['miou']:.1f} %" in text
    assert all(name in text for name in CLASSES)
    assert f"trained {metrics['trained']:,d} of {metrics['total']:,d}" in text
    assert len(metrics["history"]) == 2
    assert metrics["test"].keys() == {"miou", "accuracy", "mean_accuracy", "per_class"}
    for name in ("curves.png", "confusion.png", "scene.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100


def test_defaults_follow_the_optimizer(finished, network, scenes_npz, tmp_path):
    expected = {"adamw": (0.01, 0.05), "sgd": (0.2, 1e-4)}
    data = ["--model", network, "--data", f"scenes:{scenes_npz}", *FAST]
    succeed("segment", "train", *data, "--optimizer", "sgd", "--out", tmp_path / "run")
    for folder, optimizer in ((finished[0], "adamw"), (tmp_path / "run", "sgd")):
        metrics = json.loads((folder / "metrics.json").read_text())
        options = metrics["options"]
        assert (options["optimizer"], options["learning_rate"], options["weight_decay"]) == (optimizer, *expected[optimizer])
        assert (metrics["setup"]["skip_downsamples"], metrics["loss"]) == (1, "both")


def test_eval_measures_the_saved_network_the_same(finished, scenes_npz):
    folder, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    printed = succeed("segment", "eval", folder / "model", "--data", f"scenes:{scenes_npz}", "--block", 2, "--json").stdout
    assert json.loads(printed) == metrics["test"]


def test_predict_writes_classes_in_the_order_of_the_points(finished, tmp_path):
    folder, _ = finished
    points = make_scene(7)["points"]
    np.save(tmp_path / "scan.npy", points)
    result = succeed("segment", "predict", folder / "model", "scan.npy", "--out", "classes")
    assert "scan.npy: 300 points" in result.stdout
    labels = np.load(tmp_path / "classes" / "scan-classes.npy")
    assert labels.shape == (300,)
    ply = (tmp_path / "classes" / "scan-classes.ply").read_bytes()
    assert b"element vertex 300" in ply
    rows = np.frombuffer(ply.split(b"end_header\n", 1)[1], [("position", "<f4", 3), ("color", "u1", 3)])
    assert np.allclose(rows["position"], points)
    assert len({tuple(color) for color in rows["color"].tolist()}) == len(set(labels.tolist()))


def test_finished_run_is_kept_and_not_written_over(finished, network, scenes_npz):
    folder, _ = finished
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", "--mode", "io+bn", *FAST, "--crop", 2, "--block", 2]
    before = (folder / "metrics.json").stat().st_mtime_ns
    succeed("segment", "train", *options, "--out", folder, "--resume")
    assert "holds a finished run" in fail("segment", "train", *options, "--out", folder)
    assert (folder / "metrics.json").stat().st_mtime_ns == before


def test_errors_are_one_line(network, finished, scenes_npz, tmp_path):
    assert "classifies whole clouds" in fail("segment", "eval", network, "--data", f"scenes:{scenes_npz}")
    assert "missing.npz" in fail("segment", "eval", finished[0] / "model", "--data", "scenes:missing.npz")
    data = ["--model", network, "--data", f"scenes:{scenes_npz}"]
    assert "not both" in fail("segment", "train", *data, "--steps", 1, "--epochs", 1, "--out", "run")


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_help_of_each_command_has_an_example(command):
    assert f"Example: i2p-zoo segment {command}" in " ".join(succeed("segment", command, "--help").stdout.split())


def test_best_weights_are_chosen_on_held_out_scenes_and_kept_as_an_adapter(network, scenes_npz, tmp_path):
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", "--mode", "io+bn", *FAST, "--evaluate-every", 1]
    held = ["--hold-out", 0.25, "--keep", "best", "--adapter"]
    assert "never on the test split" in fail("segment", "train", *options, *held, "--monitor-test", "--out", tmp_path / "no")
    out = tmp_path / "run"
    assert f"in {out}: adapter" in succeed("segment", "train", *options, *held, "--out", out).stdout
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["monitored"] == "held-out"
    assert [entry["step"] for entry in metrics["evaluations"]] == [1, 2]
    printed = succeed("segment", "eval", out / "adapter", "--data", f"scenes:{scenes_npz}", "--json").stdout
    assert json.loads(printed) == metrics["test"]
    weights = sum(path.stat().st_size for path in (out / "adapter").glob("*.safetensors"))
    assert weights < 4 * metrics["total"]


def test_predict_takes_the_columns_of_a_binary_scan(finished, tmp_path):
    folder, _ = finished
    make_scene(7)["points"].astype(np.float32).tofile(tmp_path / "scan.bin")
    result = succeed("segment", "predict", folder / "model", "scan.bin", "--columns", 3, "--out", "classes")
    assert "scan.bin: 300 points" in result.stdout


def test_predict_names_classes_and_takes_a_meshs_vertices(finished, tmp_path):
    scene = make_scene(8)["points"][:4]
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in scene.tolist())
    header = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "room.ply").write_text(f"{header}{rows}3 0 1 2\n")
    result = succeed("segment", "predict", finished[0] / "model", "room.ply", "--out", "classes")
    assert "room.ply: 4 points; " in result.stdout
    assert any(f"{name} " in result.stdout for name in CLASSES)
    assert np.load(tmp_path / "classes" / "room-classes.npy").shape == (4,)


def test_scene_without_what_the_network_reads_is_refused(tmp_path):
    unet = create_unet("test_resnet", 3, pretrained=False, in_chans=3, features="normals")
    unet.save_pretrained(tmp_path / "unet")
    np.save(tmp_path / "scan.npy", make_scene(0)["points"])
    assert "the cloud has no normals" in fail("segment", "predict", tmp_path / "unet", "scan.npy", "--out", "classes")


def test_files_whose_results_would_have_one_name_are_refused(finished, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "scan.npy", make_scene(0)["points"])
    assert "scan-classes.npy" in fail(
        "segment", "predict", finished[0] / "model", "a/scan.npy", "b/scan.npy", "--out", "classes"
    )
    assert not (tmp_path / "classes").exists()


def test_encoder_that_cannot_be_is_refused_with_what_to_do(finished, scenes_npz, tmp_path):
    i2p_zoo.create_model("test_resnet", stem="point").save_pretrained(tmp_path / "pointed")
    data = ["--data", f"scenes:{scenes_npz}", *FAST, "--out", "run"]
    message = fail("segment", "train", "--model", finished[0] / "model", *data)
    assert "is a U-Net" in message
    assert "Give the name of a zoo network" in message
    message = fail("segment", "train", "--model", "pointed", *data)
    assert "pointed has a point stem" in message
    assert "a folder that was finetuned with `--stem image`" in message
    assert not (tmp_path / "run").exists()


def test_figures_outlive_a_picture_that_cannot_be_drawn(network, scenes_npz, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("i2p_zoo.experiments.scene_runs.draw_scene", full)
    result = run("segment", "train", "--model", network, "--data", f"scenes:{scenes_npz}", *FAST, "--out", "run")
    assert "i2p-zoo: [Errno 28] No space left on device" in result.stderr
    assert len(json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]) == 2


def test_colours_of_a_file_are_read_where_features_want_them(network, scenes_npz, tmp_path):
    data = ["--data", f"scenes:{scenes_npz}"]
    succeed("segment", "train", "--model", network, *data, *FAST, "--features", "xyz, rgb", "--out", "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert json.loads(succeed("segment", "eval", "run/model", *data, "--json").stdout) == metrics["test"]


@pytest.mark.parametrize(("kind", "arrays"), [("scenes", "unit, label (S, N)"), ("parts", "part (S, N), parts")])
def test_missing_file_is_told_with_the_arrays_it_would_have(network, kind, arrays):
    assert arrays in fail("segment", "train", "--model", network, "--data", f"{kind}:missing.npz", "--out", "run")


def test_adapter_of_random_weights_is_refused_before_training(network, scenes_npz, tmp_path):
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", *FAST, "--scratch", "--adapter"]
    assert "--adapter saves what differs from image weights" in fail("segment", "train", *options, "--out", "run")
    assert not (tmp_path / "run").exists()
