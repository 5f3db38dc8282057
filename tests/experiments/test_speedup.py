"""Speed to accuracy: steps and seconds are read off the curves."""

from __future__ import annotations

import json
import sys

import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.experiments import Setup, series
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.speedup import format_speedup, run_speedup
from i2p_zoo.finetune import Options

CURVES = {  # test accuracy after 2, 4 and 6 steps, by seed
    "all": [(0.5, 0.7, 0.9), (0.3, 0.4, 0.5)],
    "scratch": [(0.2, 0.3, 0.4), (0.2, 0.5, 0.6)],
}


@pytest.fixture
def curves(monkeypatch):
    """Replaces training by the curves above, 2 s a step with image weights and 1 s from scratch."""

    def run(setup, train_set, test_set, options, folder, run_options, unlabelled):
        if options.evaluate_every is None:  # a budget
            return {"test": {"top1": options.steps / 10}}
        assert run_options.monitor_test
        name = "scratch" if setup.scratch else "all"
        pace = 1 if setup.scratch else 2
        accuracies = CURVES[name][options.seed]
        points = [{"step": 2 * n, "seconds": 2.0 * n * pace, "top1": top1} for n, top1 in enumerate(accuracies, 1)]
        return {"evaluations": points, "test": {"top1": accuracies[-1], "mean_class": accuracies[-1] / 2}}

    monkeypatch.setattr(series, "run", run)


def test_ratio_is_of_the_steps_to_what_scratch_ends_at(curves, splits, tmp_path):
    result = run_speedup(Series(Setup("i2p-test_resnet"), *splits, Options(steps=6, evaluate_every=2), tmp_path), seeds=2)
    first, second = result["seeds"]
    assert first["target"] == 0.4
    assert first["all"] == {"steps": 2, "seconds": 4.0, "final": 0.9, "final_mean_class": 0.45}
    assert first["scratch"] == {"steps": 6, "seconds": 6.0, "final": 0.4, "final_mean_class": 0.2}
    assert second["all"]["steps"] is None, "0.6 is never reached"
    assert (result["steps_ratio"], result["seconds_ratio"]) == ({"all": 3.0}, {"all": 1.5}), "of the seed that reached it"
    assert json.loads((tmp_path / "speedup.json").read_text()) == result
    assert (tmp_path / "speedup.png").stat().st_size > 1000


def test_shortest_budget_is_the_least_that_ends_at_the_targets_mean(curves, splits, tmp_path):
    options = Options(steps=6, evaluate_every=2)
    result = run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), seeds=2, budgets=(7, 4, 5))
    assert result["budgets"] == {"4": [0.4, 0.4], "5": [0.5, 0.5], "7": [0.7, 0.7]}
    assert result["shortest"] == 5, "the targets are 0.4 and 0.6"
    assert run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), seeds=2, budgets=(4,))["shortest"] is None


def test_steps_to_more_levels_are_told_by_method(curves, splits, tmp_path):
    options = Options(steps=6, evaluate_every=2)
    result = run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), seeds=2, levels=(0.3, 0.7))
    assert result["levels"] == {"0.3": {"all": [2, 2], "scratch": [4, 4]}, "0.7": {"all": [4, None], "scratch": [None, None]}}


@pytest.mark.parametrize(
    ("methods", "words"), [((), "got none"), (("chamfer",), "chamfer is not"), (("ridge",), "ridge is not")]
)
def test_methods_take_steps(splits, tmp_path, methods, words):
    options = Options(steps=6, evaluate_every=2)
    with pytest.raises(InvalidInputError, match=words):
        run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), methods=methods)


def test_target_that_nobody_reaches_has_no_ratio(curves, splits, tmp_path):
    options = Options(steps=6, evaluate_every=2)
    result = run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), seeds=1, target=0.95)
    assert result["steps_ratio"] == result["seconds_ratio"] == {"all": None}
    assert result["seeds"][0]["scratch"]["steps"] is None


def test_real_runs_have_both_curves_and_are_not_run_twice(network, splits, tmp_path):
    options = Options(steps=4, batch_size=6, evaluate_every=2)
    setup = Setup(str(network), voxel_size=0.2)
    result = run_speedup(Series(setup, *splits, options, tmp_path), seeds=1)
    assert result["seeds"][0]["scratch"]["final"] == result["seeds"][0]["target"]
    assert {path.parent.name for path in tmp_path.glob("*/metrics.json")} == {"all-0", "scratch-0"}
    assert run_speedup(Series(setup, *splits, options, tmp_path), seeds=1) == result


def test_what_diverged_counts_as_a_guess_and_what_was_left_out_is_told(network, splits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    options = Options(steps=9, batch_size=6, evaluate_every=3)
    runs = Series(Setup(str(network), voxel_size=0.2), *splits, options, tmp_path)
    result = run_speedup(runs, methods=("all", "lora"), seeds=1, budgets=(8,), learning_rate=1e30)
    assert result["methods"] == ["all", "scratch"]
    assert result["diverged"] == 3
    assert result["budgets"] == {"8": [1 / 3]}
    assert result["seeds"][0]["target"] == 1 / 3
    assert result["seeds"][0]["scratch"]["final"] == 1 / 3
    assert result["steps_ratio"] == {"all": None}
    lines = format_speedup(result).splitlines()
    assert "  all           diverged; ends at 33.3 %" in lines
    assert any(line.startswith("lora was left out. This needs `peft`") for line in lines)
    assert lines[-1] == "3 runs diverged; each counts as the guess of one class."
    assert (tmp_path / "speedup.png").is_file()


@pytest.mark.parametrize("arguments", [{"seeds": 0}, {"options": Options(steps=6)}], ids=["no seeds", "no points"])
def test_curves_need_seeds_and_points(splits, tmp_path, arguments):
    options = arguments.pop("options", Options(steps=6, evaluate_every=2))
    with pytest.raises(InvalidInputError, match=r"seeds.*evaluate_every"):
        run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), **arguments)


def test_budget_without_a_step_is_told_before_any_run(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(series, "run", lambda *args, **kwargs: pytest.fail("a run has begun"))
    with pytest.raises(InvalidInputError, match=r"1 or more; got budgets 5 and 0"):
        run_speedup(Series(Setup("i2p-test_resnet"), *splits, Options(steps=6, evaluate_every=2), tmp_path), budgets=(5, 0))


def test_learning_rate_is_the_given_one(splits, tmp_path, monkeypatch):
    seen = []

    def run(setup, train_set, test_set, options, folder, run_options, unlabelled):
        seen.append((options.optimizer, options.learning_rate, run_options.device))
        points = [{"step": 2, "seconds": 2.0, "top1": 0.5}]
        return {"evaluations": points, "test": {"top1": 0.5, "mean_class": 0.5}}

    monkeypatch.setattr(series, "run", run)
    options = Options(steps=6, evaluate_every=2, optimizer="adamw")
    arguments = {"seeds": 1, "budgets": (2,)}
    run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path, device="cpu"), learning_rate=0.001, **arguments)
    assert seen == [("adamw", 0.001, "cpu")] * 3
    with pytest.raises(InvalidInputError, match="Give a learning rate"):
        run_speedup(Series(Setup("i2p-test_resnet"), *splits, options, tmp_path), **arguments)
    with pytest.raises(InvalidInputError, match="not among the options"):
        run_speedup(
            Series(Setup("i2p-test_resnet"), *splits, Options(steps=6, evaluate_every=2, target=0.5), tmp_path), **arguments
        )
