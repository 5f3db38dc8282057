"""Few shots: the same clouds for every method, tables of what was measured, and no run done twice."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import choose_shots
from i2p_zoo.experiments import Setup, series
from i2p_zoo.experiments.fewshot import format_table, run_fewshot
from i2p_zoo.experiments.methods import METHODS
from i2p_zoo.experiments.series import Series
from i2p_zoo.finetune import Options

METHODS = {name: METHODS[name] for name in ("all", "io+bn", "io", "probe", "scratch")}
OPTIONS = Options(steps=2, batch_size=3)


def test_every_method_trains_on_the_same_shots_and_is_measured_on_the_whole_test_split(network, splits, tmp_path, monkeypatch):
    seen = []
    real = series.run

    def watch(setup, clouds, test_set, options, folder, run_options, unlabelled):
        metrics = real(setup, clouds, test_set, options, folder, run_options, unlabelled)
        assert unlabelled is None
        seen.append((setup, clouds, len(test_set), options.seed, options.learning_rate, metrics))
        return metrics

    monkeypatch.setattr(series, "run", watch)
    setup = Setup(str(network), voxel_size=0.2)
    result = run_fewshot(Series(setup, *splits, OPTIONS, tmp_path), shots=(1, 2), trials=2, methods=tuple(METHODS))
    assert len(seen) == 2 * 2 * len(METHODS)
    for chosen, clouds, tested, trial, rate, _ in seen:
        expected = choose_shots(splits[0], len(clouds) // 3, trial)
        assert np.array_equal(clouds.points, expected.points)
        assert tested == 15
        assert rate == chosen.learning_rate
    for name in METHODS:
        of_method = [m for s, *_, m in seen if all(getattr(s, key) == value for key, value in METHODS[name].setup.items())]
        assert {m["test"]["top1"] for m in of_method} >= set(result["methods"][name]["1"]["top1"])
    saved = json.loads((tmp_path / "fewshot.json").read_text())
    assert saved == result
    assert (tmp_path / "fewshot.png").stat().st_size > 1000
    again = run_fewshot(Series(setup, *splits, OPTIONS, tmp_path), shots=(1, 2), trials=2, methods=tuple(METHODS))
    assert again == result
    assert len({str(path) for path in tmp_path.glob("*/metrics.json")}) == len(seen) // 2


def test_the_clouds_that_are_not_drawn_are_unlabelled_ones(network, splits, tmp_path, monkeypatch):
    seen = []

    def watch(setup, clouds, test_set, options, folder, run_options, unlabelled):
        seen.append((clouds, unlabelled))
        return {"test": {"top1": 0.5, "mean_class": 0.5}, "seconds": 1.0}

    monkeypatch.setattr(series, "run", watch)
    methods = ["pyramid and views, ridge with unlabelled clouds"]
    run_fewshot(Series(Setup(str(network)), *splits, OPTIONS, tmp_path), shots=(2,), trials=2, methods=methods)
    for trial, (clouds, unlabelled) in enumerate(seen):
        assert clouds.fingerprint() == choose_shots(splits[0], 2, trial).fingerprint()
        both = sorted(cloud.tobytes() for part in (clouds, unlabelled) for cloud in part.points)
        assert both == sorted(cloud.tobytes() for cloud in splits[0].points)


def test_a_method_of_unlabelled_clouds_is_refused_before_any_run_where_all_have_labels(network, splits, tmp_path):
    methods = ["all", "pyramid and views, ridge with unlabelled clouds"]
    with pytest.raises(InvalidInputError, match="8 shots of each class are all"):
        run_fewshot(Series(Setup(str(network)), *splits, OPTIONS, tmp_path), shots=(1, 8), trials=1, methods=methods)
    assert not list(tmp_path.iterdir())


def test_table_has_mean_and_deviation_in_percent():
    by_shots = {"1": {"top1": [0.2, 0.4], "diverged": 0}, "5": {"top1": [0.5, 0.5], "diverged": 0}}
    table = format_table({"shots": [1, 5], "methods": {"all": by_shots}})
    assert table.splitlines() == [
        "| | 1-shot | 5-shot |",
        "|---|--:|--:|",
        "| all | 30.0 ± 14.1 | 50.0 ± 0.0 |",
    ]


def test_table_tells_what_diverged_and_what_was_left_out(network, splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    runs = Series(Setup(str(network), voxel_size=0.2), *splits, dataclasses.replace(OPTIONS, steps=9), tmp_path)
    result = run_fewshot(runs, shots=(1, 2), trials=2, methods=("all", "lora"), learning_rate=1e30)
    guess = "33.3 ± 0.0, 2 diverged"
    table = (tmp_path / "fewshot.md").read_text()
    assert table == format_table(result)
    lines = table.splitlines()
    assert lines[2:4] == [f"| all | {guess} | {guess} |", "| lora | left out | left out |"]
    assert lines[5].startswith("lora was left out. This needs `peft`")
    assert lines[7] == "4 runs diverged; each counts as the guess of one class."
    assert len(lines) == 8


def test_probe_of_a_network_without_its_image_stem_is_told_before_any_run(pointed, splits, tmp_path):
    with pytest.raises(InvalidInputError, match="leave probe out of the methods"):
        run_fewshot(Series(Setup(str(pointed)), *splits, OPTIONS, tmp_path / "out"), shots=(1,), methods=("scratch", "probe"))
    assert not (tmp_path / "out").exists()


REFUSED = {
    "unknown method": ({"methods": ("all", "magic")}, "magic"),
    "no trials": ({"trials": 0}, r"trials \(=0\) of 1 or more"),
    "too many shots": ({"shots": (1, 9)}, "9 shots of each class are asked for"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_drawn_is_told_before_any_run(network, splits, tmp_path, arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        run_fewshot(Series(Setup(str(network)), *splits, OPTIONS, tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()
