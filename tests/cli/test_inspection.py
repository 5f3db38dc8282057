"""The commands that look at a trained network: predict, collapse, similarity."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import i2p_zoo
from i2p_zoo.data import to_unit_sphere
from i2p_zoo.data.files.cloud_files import SUFFIXES
from i2p_zoo.finetune import freeze, train
from i2p_zoo.modules import class_names
from tests.cli.conftest import FAST, fail, run, succeed
from tests.finetune.conftest import shapes

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "finetune.md"


def test_help_and_guide_name_every_format_of_files():
    words = succeed("predict", "--help").stdout.split()
    assert not [suffix for suffix in SUFFIXES if suffix[1:] not in words and f"{suffix[1:]}." not in words]
    text = GUIDE.read_text(encoding="utf-8").lower()
    assert not [suffix for suffix in SUFFIXES if suffix[1:] not in text]


def test_similarity_prints_a_row_a_stage(data):
    succeed("finetune", "--model", "i2p-test_resnet", "--scratch", "--data", data, *FAST, "--out", "run")
    result = succeed("similarity", "run", "--data", data, "--picture", "similarity.png")
    stages = [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert (stages[0], stages[-1]) == ("stem", "head")
    measured = json.loads(succeed("similarity", "run", "--data", data, "--json").stdout)
    assert stages == ["stem", *measured["before_after"], "head"]
    assert Path("similarity.png").is_file()
    assert "no finished run" in fail("similarity", ".", "--data", data)


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


def test_predict_says_where_a_network_notes_no_normalisation_and_sees_what_evaluation_saw(finished, network, tmp_path):
    folder, _ = finished
    np.save(tmp_path / "far.npy", shapes(1).points[0] * 40 + np.float32(900))
    np.save(tmp_path / "near.npy", to_unit_sphere(shapes(1).points[0] * 40 + np.float32(900)))
    trained = [succeed("predict", folder / "adapter", name, *options) for name, options in PLACES]
    assert len({result.stdout.partition(":")[2] for result in trained}) == 1
    assert not any("normalisation" in result.stderr for result in trained)
    assert f"{network} notes no normalisation" in succeed("predict", network, "far.npy").stderr
    with pytest.warns(UserWarning, match="unit sphere, and these reach 9[0-9][0-9]"):
        succeed("predict", folder / "adapter", "far.npy", "--as-is")


PLACES = [("far.npy", ()), ("near.npy", ()), ("near.npy", ("--as-is",))]


def test_predict_names_the_file_that_cannot_be_read(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "bad.off").write_text("no mesh")
    for name in ("bad.off", "missing.ply"):
        assert name in fail("predict", folder / "adapter", name)


def test_predict_prints_each_answer_and_tells_the_bad_files_at_the_end(finished, tmp_path):
    folder, _ = finished
    clouds = shapes(2)
    for number, points in enumerate(clouds.points):
        np.save(f"{number}.npy", points)
    Path("bad.off").write_text("no mesh")
    names = ["0.npy", "bad.off", "missing.npy", "1.npy"]
    result = run("predict", folder / "adapter", *names)
    assert result.exit_code == 2
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["0.npy", "1.npy"]
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("i2p-zoo: ")]
    assert re.search(r"^i2p-zoo: 2 of 4 files failed: bad\.off .* missing\.npy: no such file", line), line
    as_json = run("predict", folder / "adapter", *names, "--json", "--picture", "classes.png")
    assert as_json.exit_code == 2
    assert list(json.loads(as_json.stdout)) == ["0.npy", "1.npy"]
    assert Path("classes.png").stat().st_size > 1000
    none = run("predict", folder / "adapter", "bad.off", "missing.npy", "--picture", "none.png")
    assert (none.exit_code, none.stdout) == (2, "")
    assert not Path("none.png").exists()


def test_predict_answers_before_it_reads_the_next_file(finished, monkeypatch):
    folder, _ = finished
    np.save("0.npy", shapes(1).points[0])
    from i2p_zoo.data.files import cloud_files

    read = cloud_files.read_cloud

    def interrupted(file, **options):
        if str(file) == "1.npy":
            raise KeyboardInterrupt
        return read(file, **options)

    monkeypatch.setattr(cloud_files, "read_cloud", interrupted)
    result = run("predict", folder / "adapter", "0.npy", "1.npy")
    assert (result.exit_code, result.stdout.split(":")[0]) == (130, "0.npy")


def test_a_network_that_names_no_class_is_told_once_and_not_for_each_file(network, tmp_path):
    i2p_zoo.from_pretrained(network, num_classes=0).save_pretrained("headless")
    message = fail("predict", "headless", "a.npy", "b.npy")
    assert "has no classifier" in message
    assert "files failed" not in message


def test_outputs_that_are_not_finite_are_an_error_and_no_json(network, monkeypatch):
    np.save("0.npy", shapes(1).points[0] * np.float32(1e38))
    np.save("1.npy", shapes(1).points[0])
    result = run("predict", network, "0.npy", "1.npy", "--as-is", "--json")
    assert result.exit_code == 2
    assert list(json.loads(result.stdout, parse_constant=pytest.fail)) == ["1.npy"]
    assert "0.npy" in result.stderr


def test_json_of_figures_that_are_no_numbers_has_null(network, data, monkeypatch):
    from i2p_zoo import analysis

    nothing = analysis.NeuralCollapse(float("nan"), 1.0, None, float("inf"), None, None, None)
    monkeypatch.setattr(analysis, "measure_collapse", lambda model, clouds: nothing)
    (figures,) = json.loads(succeed("collapse", network, "--data", data, "--json").stdout, parse_constant=pytest.fail).values()
    assert (figures["nc1"], figures["nc2_norms_means"], figures["nc2_angles_means"]) == (None, 1.0, None)


def test_classes_that_were_trained_in_python_are_named_by_the_command(network):
    clouds = shapes(24)
    model = i2p_zoo.from_pretrained(network, num_classes=3, stem="point", voxel_size=0.2)
    assert class_names(model) == ()
    freeze(model, "all")
    train(model, clouds, steps=1, batch_size=6)
    model.save_pretrained("mine")
    np.save("0.npy", clouds.points[0])
    printed = json.loads(succeed("predict", "mine", "0.npy", "--json").stdout)
    assert set(printed["0.npy"]) == set(clouds.classes)
    other = i2p_zoo.from_pretrained("mine", num_classes=4)
    assert class_names(other) == ()
    other.save_pretrained("other")
    assert set(json.loads(succeed("predict", "other", "0.npy", "--json", "--top", 4).stdout)["0.npy"]) == set("0123")


def test_predict_takes_the_columns_of_a_binary_cloud(finished, tmp_path):
    folder, _ = finished
    np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32).tofile(tmp_path / "a.bin")
    assert "columns=4 (KITTI" in fail("predict", folder / "adapter", "a.bin")
    assert "a.bin: " in succeed("predict", folder / "adapter", "a.bin", "--columns", "x,y,z,nx,ny,nz").stdout


def test_collapse_prints_and_draws_the_four_figures(finished, data, tmp_path):
    folder, _ = finished
    result = succeed("collapse", folder / "adapter", "--data", data, "--picture", "collapse.png")
    assert all(name in result.stdout for name in ("nc1", "nc2_norms_means", "nc3", "nc4"))
    assert (tmp_path / "collapse.png").stat().st_size > 1000
    printed = json.loads(succeed("collapse", folder / "adapter", "--data", data, "--json").stdout)
    assert printed[str(folder / "adapter")]["nc1"] > 0
