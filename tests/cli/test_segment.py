"""The commands about classes of points, as a user meets them."""

from __future__ import annotations

import json
import re
import shutil

import laspy
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import i2p_zoo
from i2p_zoo import data, finetune, segmentation
from i2p_zoo.cli import main
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.modules import set_class_names_
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.cli.conftest import fail, run, succeed
from tests.segmentation.conftest import CLASSES, CODES, UTM, make_scene, make_unet, write_las
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
    assert "in classes: scan-classes.ply and scan-classes.npy\n" in result.stdout
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
    assert "scan.npy has no normals, which the features normals ask for; it has xyz" in fail(
        "segment", "predict", tmp_path / "unet", "scan.npy", "--out", "classes"
    )


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


def test_no_steps_are_refused_with_what_a_scenes_network_can_be(network, scenes_npz, tmp_path):
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", "--steps", 0, "--out", "run"]
    assert fail("segment", "train", *options).endswith("No step (steps=0) trains nothing: give at least one.")
    assert not (tmp_path / "run").exists()


def test_adapter_of_random_weights_is_refused_before_training(network, scenes_npz, tmp_path):
    options = ["--model", network, "--data", f"scenes:{scenes_npz}", *FAST, "--scratch", "--adapter"]
    assert "--adapter saves what differs from image weights" in fail("segment", "train", *options, "--out", "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """Tiles of a city in UTM: LAS and LAZ of different sizes, and a list of their classes."""
    folder = tmp_path_factory.mktemp("city")
    for number, name in enumerate(("train/a.las", "train/b.laz", "test/c.las")):
        write_las(folder / name, make_scene(number, 200 + 50 * number))
    (folder / "classes.txt").write_text("2 floor\n6 wall\n5 lamp\n1 unclassified\n")
    return folder


@pytest.fixture(scope="module")
def surveyed(network, city, tmp_path_factory):
    out = tmp_path_factory.mktemp("surveyed") / "run"
    options = ["--model", network, "--data", f"scans:{city}", *FAST, "--features", "xyz,intensity,field:number_of_returns"]
    result = CliRunner().invoke(main, [*map(str, ["segment", "train", *options, "--crop", 2, "--block", 2, "--out", out])])
    assert result.exit_code == 0, result.stderr
    return out


def test_own_tiles_in_utm_are_trained_measured_and_predicted(surveyed, city, tmp_path):
    metrics = json.loads((surveyed / "metrics.json").read_text())
    assert metrics["classes"] == list(CLASSES)
    printed = succeed("segment", "eval", surveyed / "model", "--data", f"scans:{city}", "--block", 2, "--json").stdout
    assert json.loads(printed) == metrics["test"]
    for source in (city / "test" / "c.las", city / "train" / "b.laz"):
        result = succeed("segment", "predict", surveyed / "model", source, "--block", 2, "--out", "classes")
        assert f"{source}: " in result.stdout
        assert any(f"{name} " in result.stdout for name in CLASSES)
        assert f"in classes: {source.stem}-classes{source.suffix} and {source.stem}-classes.npy\n" in result.stdout
        before, after = laspy.read(source), laspy.read(tmp_path / "classes" / f"{source.stem}-classes{source.suffix}")
        labels = np.load(tmp_path / "classes" / f"{source.stem}-classes.npy")
        assert np.array_equal(after.classification, CODES[labels]), "the codes of the training data"
        assert after.vlrs[0].record_data_bytes() == before.vlrs[0].record_data_bytes()
        assert np.array_equal(after.header.offsets, before.header.offsets)
        for name in set(before.point_format.dimension_names) - {"classification"}:
            assert np.array_equal(after[name], before[name]), name
    accuracy = CODES[np.load(tmp_path / "classes" / "c-classes.npy")] == laspy.read(city / "test" / "c.las").classification
    known = laspy.read(city / "test" / "c.las").classification != 1
    assert accuracy[known].mean() == pytest.approx(metrics["test"]["accuracy"])


def write_scans(folder, offset):
    """Scenes of 10 binary places, which doubles move by whole numbers exactly."""
    for number, name in enumerate(("train/a", "train/b", "test/c")):
        scene = make_scene(number, 200)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        points = np.round(scene["points"].astype(np.float64) * 1024) / 1024 + offset
        np.savez(folder / f"{name}.npz", coord=points, segment=scene["labels"])
    return folder


def test_scenes_on_a_map_train_as_at_the_origin(network, tmp_path):
    runs = []
    for name, offset in (("origin", 0), ("map", UTM)):
        data = write_scans(tmp_path / name, offset)
        options = ["--model", network, "--data", f"scans:{data}", *FAST, "--crop", 2, "--block", 2, "--seed", 3]
        succeed("segment", "train", *options, "--out", f"{name}-run")
        runs.append(json.loads((tmp_path / f"{name}-run" / "metrics.json").read_text()))
    (near, far) = runs
    assert [step["loss"] for step in near["history"]] == [step["loss"] for step in far["history"]]
    assert near["test"] == far["test"]
    for name in ("origin", "map"):
        succeed("segment", "predict", f"{name}-run/model", f"{name}/test/c.npz", "--block", 2, "--out", f"{name}-out")
    first, second = (np.load(tmp_path / f"{name}-out" / "c-classes.npy") for name in ("origin", "map"))
    assert np.array_equal(first, second)
    read = read_cloud(tmp_path / "map-out" / "c-classes.ply")["points"]
    with np.load(tmp_path / "map" / "test" / "c.npz") as file:
        assert np.array_equal(read, file["coord"]), "to the digit"


def test_a_bad_file_among_others_is_told_at_the_end(surveyed, city, tmp_path):
    (tmp_path / "bad.las").write_bytes(b"no las")
    np.save(tmp_path / "plain.npy", make_scene(0)["points"])
    files = [city / "train" / "a.las", "bad.las", "plain.npy", "none.ply", city / "test" / "c.las"]
    result = run("segment", "predict", surveyed / "model", *files, "--out", "classes")
    assert result.exit_code == 2
    assert [line.split(": ")[0] for line in result.stdout.splitlines()[:2]] == [str(files[0]), str(files[-1])]
    message = result.stderr[result.stderr.index("i2p-zoo: ") :]
    assert message.startswith("i2p-zoo: 3 of 5 files failed: bad.las cannot be read: ")
    assert "plain.npy has no intensity, field:number_of_returns" in message
    assert "none.ply: no such file" in message
    assert message.count("\n") == 1
    written = {path.name for path in (tmp_path / "classes").iterdir()}
    assert written == {"a-classes.las", "a-classes.npy", "c-classes.las", "c-classes.npy"}


def test_classes_that_the_format_of_a_file_cannot_hold_are_told_before_they_are_made(surveyed, city, tmp_path):
    header = laspy.LasHeader(point_format=0, version="1.2")
    las = laspy.LasData(header)
    las.x, las.y, las.z = make_scene(0)["points"].T
    las.write(tmp_path / "old.las")
    unet = create_unet("test_resnet", 3, pretrained=False)
    set_class_names_(unet, ("ground", "rail", "building"), (2, 40, 6))
    unet.save_pretrained(tmp_path / "unet")
    assert "its point format 0 holds classes of 0 to 31" in fail("segment", "predict", "unet", "old.las", "--out", "classes")
    assert not list((tmp_path / "classes").iterdir())


def test_tiles_get_the_codes_that_a_network_trained_in_python_learned(city, tmp_path):
    train_set, _ = data.load_scenes(f"scans:{city}")
    unet = make_unet()
    finetune.train(unet, segmentation.Segmentation(train_set, cropping=segmentation.Cropping(2)), steps=2, batch_size=2)
    unet.save_pretrained(tmp_path / "unet")
    succeed("segment", "predict", "unet", city / "test" / "c.las", "--block", 2, "--out", "classes")
    labels = np.load(tmp_path / "classes" / "c-classes.npy")
    assert np.array_equal(laspy.read(tmp_path / "classes" / "c-classes.las").classification, CODES[labels])


FAULTS = {
    "a feature": (["--features", "xyz,normals"], "Scene 'train/a.las' has no normals, .* it has xyz, intensity, field:"),
    "a field": (["--features", "field:height"], "Scene 'train/a.las' has no field:height, which"),
    "an option": (["--data", "scans:CITY,labels=x"], "takes label, classes, test and columns"),
    "a list": (["--data", "scans:CITY,classes=none.txt"], "none.txt: no such file"),
    "no folder": (["--out", ""], "the path is empty"),
}


@pytest.mark.parametrize(("options", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_trained_is_told_before_anything_is_written(network, city, tmp_path, options, message):
    data = ["--model", network, "--data", f"scans:{city}", *FAST, "--out", "run"]
    result = run("segment", "train", *data, *(option.replace("CITY", str(city)) for option in options))
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr
    assert not list(tmp_path.iterdir())


def test_a_test_scene_without_a_feature_is_found_before_the_training(network, city, tmp_path):
    shutil.copytree(city / "train", tmp_path / "mixed" / "train")
    (tmp_path / "mixed" / "test").mkdir()
    scene = make_scene(7)
    np.savez(tmp_path / "mixed" / "test" / "plain.npz", points=scene["points"], label=CODES[scene["labels"]])
    shutil.copy(city / "classes.txt", tmp_path / "mixed")
    data = ["--model", network, "--data", "scans:mixed", *FAST, "--features", "xyz,intensity"]
    assert "Scene 'test/plain.npz' has no intensity" in fail("segment", "train", *data, "--out", "run")
    assert not (tmp_path / "run").exists()


def test_no_folder_is_no_place_for_classes(surveyed, city):
    result = run("segment", "predict", surveyed / "model", city / "test" / "c.las", "--out", "")
    assert result.exit_code == 2
    assert "the path is empty" in result.stderr
