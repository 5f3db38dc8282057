"""Ablations: one setting at a time, judged on held-out clouds alone."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from i2p_zoo import DivergedError, InvalidInputError
from i2p_zoo.data import choose_shots, hold_out
from i2p_zoo.experiments import Setup, series
from i2p_zoo.experiments.ablation import VARIATIONS, default_variations, format_ablation, run_ablation
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.setup import build_model
from i2p_zoo.finetune import Options

OPTIONS = Options(steps=2, batch_size=6, learning_rate=0.4)


@pytest.fixture
def seen(monkeypatch):
    """Runs that are noted and not trained; their accuracy counts them."""
    found = []

    def run(setup, train_set, test_set, options, folder, run_options, unlabelled):
        found.append((setup, options, train_set, test_set, run_options))
        accuracy = len(found) / 100
        return {"test": {"top1": accuracy, "mean_class": accuracy}, "seconds": 2.0}

    monkeypatch.setattr(series, "run", run)
    return found


def test_one_setting_changes_at_a_time(seen, splits, tmp_path):
    setup = Setup("i2p-test_resnet", "io+bn", inflation="average", axis="z")
    coloured = [dataclasses.replace(split, normals=split.points, rgb=abs(split.points)) for split in splits]
    result = run_ablation(Series(setup, *coloured, OPTIONS, tmp_path), variations=VARIATIONS, seeds=2, held_out=0.3)
    assert len(seen) == 2 * sum(map(len, VARIATIONS.values()))
    for chosen, options, trained, judged, run_options in seen:
        changed = [key for key, value in chosen.to_dict().items() if value != setup.to_dict()[key]]
        changed += [k for k, v in options.to_dict().items() if k != "seed" and v != OPTIONS.to_dict()[k]]
        assert len(changed) <= 1
        expected = hold_out(coloured[0], 0.3, options.seed)
        assert [s.fingerprint() for s in (trained, judged)] == [s.fingerprint() for s in expected]
        assert run_options.held_out is None
        assert not run_options.monitor_test
    assert {name: set(values) for name, values in result.items()} == {
        name: set(map(str, values)) for name, values in VARIATIONS.items()
    }
    assert result["inflation"]["center"]["top1"] == [0.01, 0.01 + len(seen) / 200]
    assert json.loads((tmp_path / "ablation.json").read_text()) == result


def test_setting_as_it_is_is_run_once_a_seed(network, splits, tmp_path):
    setup = Setup(str(network), "io+bn", voxel_size=0.2, skip_downsamples=2)
    variations = {"skip_downsamples": [1, 2], "learning_rate": [0.4, 0.8]}
    result = run_ablation(Series(setup, *splits, OPTIONS, tmp_path), variations=variations, seeds=1)
    names = {path.parent.name for path in tmp_path.glob("*/metrics.json")}
    assert names == {"base-0", "skip_downsamples=1-0", "learning_rate=0.8-0"}
    assert result["skip_downsamples"]["2"] == result["learning_rate"]["0.4"]
    assert run_ablation(Series(setup, *splits, OPTIONS, tmp_path), variations=variations, seeds=1) == result


def test_table_marks_the_best_value_of_each_setting():
    values = {"a": [0.5, 0.6, 0.7], "b": [0.2, 0.2, 0.2]}
    figures = {
        key: {"top1": top1, "mean_class": top1, "seconds": [3, 4, 5], "diverged": int(key == "b")}
        for key, top1 in values.items()
    }
    assert format_ablation({"stem": figures}).splitlines()[2:] == [
        "| stem | a | **60.0 ± 10.0 [35.2, 84.8]** | 60.0 | 4 |",
        "| stem | b | 20.0 ± 0.0 [20.0, 20.0], 1 diverged | 20.0 | 4 |",
        "",
        "1 run diverged; each counts as the guess of one class.",
    ]


def test_table_tells_what_diverged_and_what_was_left_out(network, splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    runs = Series(Setup(str(network), voxel_size=0.2), *splits, dataclasses.replace(OPTIONS, steps=9), tmp_path)
    run_ablation(runs, variations={"learning_rate": [1e30], "mode": ["lora", "head"]}, seeds=1)
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert lines[2] == "| learning_rate | 1e+30 | **33.3, 1 diverged** | 33.3 |  |"
    assert lines[3] == "| mode | lora | left out |  |  |"
    assert lines[4].startswith("| mode | head | **")
    assert lines[6].startswith("mode=lora was left out. This needs `peft`")
    assert lines[8] == "1 run diverged; each counts as the guess of one class."


BAD = [{"variations": v} for v in (
    {"colour": [1]}, {"steps": ["x"]}, {"augmented": ["no"]}, {"seed": [True]}, {"voxel_size": ["a"]}, {"features": [5]},
    {"steps": [1.5]}, {"ema": ["none"]},
)]  # fmt: skip


@pytest.mark.parametrize("arguments", [*BAD, {"seeds": 0}], ids=str)
def test_unknown_settings_are_refused(seen, splits, tmp_path, arguments):
    with pytest.raises(InvalidInputError, match=r"Settings to vary are model, mode|seeds \(=0\)"):
        run_ablation(Series(Setup("i2p-test_resnet"), *splits, OPTIONS, tmp_path), **arguments)
    assert seen == []


def test_default_settings_are_those_that_can_be_run(network, splits):
    assert default_variations(Setup("i2p-resnet18"), splits[0])["axis"] == ("z", "y", "x")
    found = default_variations(Setup(str(network)), splits[0])
    assert "axis" not in found
    assert found["features"] == ("xyz", "ones")
    with_normals = dataclasses.replace(splits[0], normals=splits[0].points)
    assert default_variations(Setup(str(network)), with_normals)["features"] == ("xyz", "ones", "xyz,normals")
    with_colours = dataclasses.replace(splits[0], rgb=abs(splits[0].points))
    assert default_variations(Setup(str(network)), with_colours)["features"] == ("xyz", "ones", "rgb", "xyz,rgb")
    whole = dataclasses.replace(with_normals, rgb=abs(splits[0].points))
    assert default_variations(Setup(str(network)), whole)["features"] == VARIATIONS["features"]


@pytest.mark.parametrize("variations", [{"keep": ["best"]}, {"target": [0.5]}], ids=str)
def test_nothing_is_chosen_by_the_clouds_that_judge(splits, tmp_path, seen, variations):
    with pytest.raises(InvalidInputError, match="nothing was chosen by"):
        run_ablation(Series(Setup("i2p-test_resnet"), *splits, OPTIONS, tmp_path), variations=variations)
    assert seen == []


def test_few_shots_are_of_the_clouds_that_are_not_held_out(splits, tmp_path, seen):
    variations = {"learning_rate": [0.4]}
    run_ablation(Series(Setup("i2p-test_resnet"), *splits, OPTIONS, tmp_path), variations=variations, seeds=2, shots=3)
    for seed, (_, _, trained, judged, _) in enumerate(seen):
        rest, held = hold_out(splits[0], 0.25, seed)
        assert trained.fingerprint() == choose_shots(rest, 3, seed).fingerprint()
        assert judged.fingerprint() == held.fingerprint()


def test_runs_that_diverge_count_as_the_guess_of_one_class(splits, tmp_path, monkeypatch):
    def diverge(*args):
        raise DivergedError("The loss is nan.")

    monkeypatch.setattr(series, "run", diverge)
    setup = Setup("i2p-test_resnet")
    figures = run_ablation(Series(setup, *splits, OPTIONS, tmp_path), variations={"learning_rate": [0.4]}, seeds=2)
    assert figures["learning_rate"]["0.4"] == {
        "top1": [1 / 3] * 2, "mean_class": [1 / 3] * 2, "seconds": [], "diverged": 2
    }  # fmt: skip


def test_image_stem_that_a_folder_lost_is_not_varied(pointed, splits, seen, tmp_path):
    setup = Setup(str(pointed), inflation=None, axis=None)
    varied = default_variations(setup, splits[0])
    assert {"learning_rate", "voxel_size"} <= varied.keys()
    for name, values in varied.items():
        for value in values:
            if name in setup.to_dict():
                build_model(dataclasses.replace(setup, **{name: value}), splits[0].classes)
    with pytest.raises(InvalidInputError, match=r"has a point stem.*zoo network"):
        run_ablation(Series(Setup(str(pointed)), *splits, OPTIONS, tmp_path), variations={"stem": ["point", "image"]}, seeds=1)
    assert seen == []


def test_table_is_there_after_each_run(splits, tmp_path, monkeypatch):
    def run(setup, train_set, test_set, options, folder, run_options, unlabelled):
        if options.learning_rate == 0.8:
            raise InvalidInputError("no")
        return {"test": {"top1": 0.5, "mean_class": 0.5}, "seconds": 1.0}

    monkeypatch.setattr(series, "run", run)
    with pytest.raises(InvalidInputError, match="no"):
        run_ablation(
            Series(Setup("i2p-test_resnet"), *splits, OPTIONS, tmp_path), variations={"learning_rate": [0.2, 0.8]}, seeds=1
        )
    assert json.loads((tmp_path / "ablation.json").read_text()) == {
        "learning_rate": {"0.2": {"top1": [0.5], "mean_class": [0.5], "seconds": [1.0], "diverged": 0}}
    }


def test_views_are_varied_in_what_they_can_have(network, splits):
    setup = Setup(str(network), stem="image", readout="pyramid+views")
    assert {"stem", "features"}.isdisjoint(default_variations(setup, splits[0]))
