"""The comparison of all methods: equal clouds and steps, tables that are there at any time, no run done twice."""

from __future__ import annotations

import json

import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.experiments import Setup, series
from i2p_zoo.experiments.comparison import format_comparison, run_comparison
from i2p_zoo.experiments.series import Series
from i2p_zoo.finetune import Options

OPTIONS = Options(steps=2, batch_size=3)
METHODS = ("all", "scratch", "ridge", "chamfer")


@pytest.fixture
def compared(network, splits, tmp_path):
    return Series(Setup(str(network), voxel_size=0.2), *splits, OPTIONS, tmp_path)


def test_each_method_runs_with_each_seed_and_one_without_a_network_once(compared, tmp_path):
    figures = run_comparison(compared, methods=METHODS, seeds=2)
    assert {name: len(entry["top1"]) for name, entry in figures.items()} == {
        "all": 2, "scratch": 2, "ridge": 2, "chamfer": 1
    }  # fmt: skip
    assert figures["all"]["trained"] == figures["scratch"]["trained"] > figures["ridge"]["trained"]
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
        "scratch": {"top1": [0.1, 0.2, 0.3], "mean_class": [0.1] * 3, "seconds": [1.0] * 3, "trained": 9000, "diverged": 1},
        "chamfer": {"top1": [0.5], "mean_class": [0.4], "seconds": [2.4], "diverged": 0},
    }
    assert format_comparison(figures).splitlines() == [
        "| method | runs | trained parameters | top-1 | mean over classes | seconds |",
        "|---|--:|--:|--:|--:|--:|",
        "| chamfer | 1 |  | 50.0 | 40.0 | 2 |",
        "| scratch | 3, 1 diverged | 9,000 | 20.0 ± 10.0 [-4.8, 44.8] | 10.0 | 1 |",
        "",
        "1 run diverged; each counts as the guess of one class.",
    ]


@pytest.mark.parametrize(("arguments", "words"), [({"methods": ()}, "none"), ({"seeds": 0}, r"seeds \(=0\)")], ids=str)
def test_nothing_to_compare_is_told(compared, arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        run_comparison(compared, **arguments)
