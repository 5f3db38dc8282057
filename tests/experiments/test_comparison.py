"""The comparison of all methods: equal clouds and steps, tables that are there at any time, no run done twice."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.experiments import Setup, series
from i2p_zoo.experiments.comparison import format_comparison, run_comparison
from i2p_zoo.experiments.methods import METHODS as EVERY
from i2p_zoo.experiments.series import Series
from i2p_zoo.finetune import Options

OPTIONS = Options(steps=2, batch_size=3)
METHODS = ("all", "scratch", "ridge", "chamfer")


@pytest.fixture
def compared(network, splits, tmp_path):
    return Series(Setup(str(network), voxel_size=0.2), *splits, OPTIONS, tmp_path)


def test_each_method_runs_with_each_seed_and_once_where_nothing_is_random(compared, tmp_path):
    figures = run_comparison(compared, methods=METHODS, seeds=2)
    assert {name: len(entry["top1"]) for name, entry in figures.items()} == {
        "all": 2, "scratch": 2, "ridge": 1, "chamfer": 1
    }  # fmt: skip
    assert figures["all"]["trained"] == figures["scratch"]["trained"] > figures["ridge"]["trained"]
    assert [figures[name].get("learning_rate") for name in METHODS] == [0.05, 0.05, None, None]
    assert figures["ridge"]["seconds"][0] > 0  # of solving, though no step is trained
    assert json.loads((tmp_path / "comparison.json").read_text()) == figures
    assert (tmp_path / "comparison.md").read_text() == format_comparison(figures)
    again = run_comparison(compared, methods=METHODS, seeds=2)
    assert again == figures


def test_the_table_is_there_after_each_run(compared, tmp_path, monkeypatch):
    run = series.run

    def stop_at_scratch(setup, *args):
        if setup.scratch:
            raise KeyboardInterrupt
        return run(setup, *args)

    monkeypatch.setattr(series, "run", stop_at_scratch)
    with pytest.raises(KeyboardInterrupt):
        run_comparison(compared, methods=METHODS, seeds=2)
    assert list(json.loads((tmp_path / "comparison.json").read_text())) == ["all"]


def test_processes_that_share_the_methods_fill_one_table(compared):
    apart = [run_comparison(compared, methods=[name], seeds=1) for name in ("all", "chamfer")]
    assert run_comparison(compared, methods=["all", "chamfer"], seeds=1) == {**apart[0], **apart[1]}


def test_table_has_the_best_first_with_its_interval_and_tells_what_diverged():
    figures = {
        "scratch": {
            "top1": [0.1, 0.2, 0.3],
            "mean_class": [0.1] * 3,
            "seconds": [1.0] * 3,
            "trained": 9000,
            "diverged": 1,
            "learning_rate": 0.05,
        },
        "chamfer": {"top1": [0.5], "mean_class": [0.4], "seconds": [2.4], "diverged": 0},
    }
    assert format_comparison(figures).splitlines() == [
        "| method | runs | trained parameters | learning rate | top-1 | mean over classes | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| chamfer | 1 |  |  | 50.0 | 40.0 | 2 |",
        "| scratch | 3 | 9,000 | 0.05 | 20.0 ± 10.0 [-4.8, 44.8], 1 diverged | 10.0 | 1 |",
        "",
        "1 run diverged; each counts as the guess of one class.",
    ]


def test_table_tells_what_diverged_and_what_was_left_out(network, splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    runs = Series(Setup(str(network), voxel_size=0.2), *splits, dataclasses.replace(OPTIONS, steps=9), tmp_path)
    figures = run_comparison(runs, methods=("lora", "all", "chamfer"), seeds=2, learning_rate=1e30)
    assert figures["all"]["diverged"] == 2
    assert figures["all"]["seconds"] == []
    nearest = f"{100 * figures['chamfer']['top1'][0]:.1f}"
    _, _, *rows = (tmp_path / "comparison.md").read_text().splitlines()
    assert {row.split(" | ")[0]: row.split(" | ")[4:] for row in rows[:3]} == {
        "| chamfer": [nearest, nearest, rows[0].split(" | ")[-1]],
        "| all": ["33.3 ± 0.0, 2 diverged", "33.3", " |"],
        "| lora": ["left out", "", " |"],
    }
    assert rows[4].startswith("lora was left out. This needs `peft`")
    assert rows[4].endswith('pip install "i2p-zoo[lora]"')
    assert rows[6] == "2 runs diverged; each counts as the guess of one class."


def test_all_methods_are_those_that_the_setup_can_have(splits, pointed, tmp_path, monkeypatch):
    monkeypatch.setattr(series, "run", lambda *args: {"test": {"top1": 0.5, "mean_class": 0.5}, "seconds": 1.0})
    coloured = [dataclasses.replace(split, rgb=abs(split.points)) for split in splits]
    runs = Series(Setup("i2p-test_resnet", features="rgb"), *coloured, OPTIONS, tmp_path)
    figures = run_comparison(runs, seeds=1)
    assert figures.keys() == EVERY.keys()
    assert {name for name, entry in figures.items() if "skipped" in entry} == {name for name in EVERY if "views" in name}
    assert "views was left out. Views are of features xyz" in format_comparison(figures)
    figures = run_comparison(dataclasses.replace(runs, setup=Setup(str(pointed))), seeds=1)
    assert {name for name, entry in figures.items() if "skipped" not in entry} == {
        "all", "io+bn", "io+stats", "io", "lora", "scratch", "frozen random, io+bn", "frozen random, io+stats",
        "frozen random, io", "chamfer"
    }  # fmt: skip
    with pytest.raises(InvalidInputError, match="Views are of features xyz"):
        run_comparison(runs, methods=["views"], seeds=1)


@pytest.mark.parametrize(("arguments", "words"), [({"methods": ()}, "none"), ({"seeds": 0}, r"seeds \(=0\)")], ids=str)
def test_nothing_to_compare_is_told(compared, arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        run_comparison(compared, **arguments)
