"""Speed to accuracy: how much sooner image weights reach what training from scratch ends at (Image2Point, Figure 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.comparison import format_notes, name_folder
from i2p_zoo.experiments.methods import plan_method, run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options
from i2p_zoo.wording import count_of, join_words


def run_speedup(
    series: Series,
    *,
    methods: Sequence[str] = ("all",),
    seeds: int = 3,
    target: float | None = None,
    levels: Sequence[float] = (),
    budgets: Sequence[int] = (),
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Trains a network by methods on image weights and from scratch, each at its own learning rate, and compares their curves.

    A point on the way of a long schedule is not what a short one ends at: `budgets` measures how few steps are enough.

    Args:
        series: the network, apart from what a method changes; the clouds, whose test split is measured along the way, and
            nothing is chosen by it; the options, whose seed and learning rate are set here; the folder, which gets
            speedup.json and .png.
        methods: of `METHODS`, beside "scratch".
        seeds: runs of each.
        target: the accuracy to reach; None for what training from scratch ends at with the same seed.
        levels: more accuracies to tell the steps to.
        budgets: more numbers of steps to train the first method for, each by a whole schedule of that length.
        learning_rate: of all; None for each one's own.

    Returns:
        What speedup.json holds: for each seed the target, the steps and seconds to it by method (None where it was not
        reached), the final accuracies, and `diverged`, the message, of a training that did, whose final accuracy is that of the
        guess of one class; how many `diverged`; `skipped`, why methods were left out; `levels`, for each level and method the
        steps to it by seed; `steps_ratio` and `seconds_ratio` by method, means over the seeds that reached the target (None for
        none); for each budget the accuracies at its end, and `shortest`, the least whose mean is that of the targets or more
        (None for none).

    Raises:
        InvalidInputError: no method or one without steps, fewer than 1 seed, a budget of fewer than 1 step, no
            `evaluate_every`, a target at which runs stop, or as `plan_method`.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    options = series.options
    if options.target is not None:
        raise InvalidInputError("Runs go on to the end: give `target` to `run_speedup`, not among the options.")
    if not methods:
        raise InvalidInputError("Speed to accuracy needs methods; got none.")
    if seeds < 1 or options.evaluate_every is None:
        raise InvalidInputError(f"Speed to accuracy needs seeds (={seeds}) of 1 or more, and `evaluate_every`.")
    if any(steps < 1 for steps in budgets):
        raise InvalidInputError(f"A budget is a number of steps, 1 or more; got budgets {join_words(budgets)}.")
    plans = _plan_methods((*methods, "scratch"), series, learning_rate)
    curves: dict[str, list[dict[str, list[float]]]] = {name: [] for name in plans}
    skipped: dict[str, str] = {}
    diverged = 0
    rows: list[dict[str, Any]] = []
    reached: dict[str, dict[str, list[int | None]]] = {}
    ends: dict[str, list[float]] = {str(steps): [] for steps in sorted(budgets)}
    for seed in range(seeds):
        runs = {}
        for name, plan in plans.items():
            metrics = _run_plan(series, name_folder(name), name, plan, seed, monitor_test=True)
            if "skipped" in metrics:
                skipped[name] = metrics["skipped"]
                continue
            runs[name], points = metrics, metrics["evaluations"]
            diverged += "diverged" in metrics
            curves[name].append({"x": [point["step"] for point in points], "y": [point["top1"] for point in points]})
        for steps in sorted(budgets) if methods[0] in runs else ():
            setup, planned = plans[methods[0]]
            short = setup, dataclasses.replace(planned, steps=steps, evaluate_every=None)
            metrics = _run_plan(series, f"{steps}-steps", count_of(steps, "step"), short, seed)
            ends[str(steps)].append(metrics["test"]["top1"])
            diverged += "diverged" in metrics
        level = runs["scratch"]["test"]["top1"] if target is None else target
        rows.append({"target": level, **{name: _time_to(metrics, level) for name, metrics in runs.items()}})
        for share in levels:
            for name, metrics in runs.items():
                reached.setdefault(str(share), {}).setdefault(name, []).append(_time_to(metrics, share)["steps"])
    mean_level = float(np.mean([row["target"] for row in rows]))
    shortest = next((int(steps) for steps, top1 in ends.items() if top1 and np.mean(top1) >= mean_level), None)
    rivals = [name for name in methods if name not in skipped]
    result = {
        "methods": list(dict.fromkeys([*rivals, "scratch"])),
        "skipped": skipped,
        "diverged": diverged,
        "seeds": rows,
        "budgets": {steps: top1 for steps, top1 in ends.items() if top1},
        "shortest": shortest,
        "levels": reached,
        **{f"{unit}_ratio": {name: _mean_ratio(rows, name, unit) for name in rivals} for unit in ("steps", "seconds")},
    }
    series.write("speedup", result)
    pictures.draw_accuracies(series.path("speedup.png"), curves, target=mean_level)
    return result


def format_speedup(result: dict[str, Any]) -> str:
    """Returns what `run_speedup` found, as lines of text."""
    lines = []
    for number, row in enumerate(result["seeds"]):
        lines.append(f"seed {number}: target {100 * row['target']:.1f} %")
        for name in result["methods"]:
            took = row[name]
            when = "never" if took["steps"] is None else f"after {count_of(took['steps'], 'step')}, {took['seconds']:.0f} s"
            when = "diverged" if "diverged" in took else when
            lines.append(f"  {name:<13} {when}; ends at {100 * took['final']:.1f} %")
    for steps, top1 in result["budgets"].items():
        shares = " ".join(f"{100 * value:.1f}" for value in top1)
        lines.append(f"{count_of(int(steps), 'step')} of {result['methods'][0]}: {shares} % at the end")
    for level, by_name in result["levels"].items():
        reached = [f"{name} {join_words(['never' if n is None else n for n in steps])}" for name, steps in by_name.items()]
        lines.append(f"{100 * float(level):.0f} % after steps: {'; '.join(reached)}")
    for name, ratio in result["steps_ratio"].items():
        if ratio is not None:
            lines.append(f"{name}: {ratio:.1f} times fewer steps, {result['seconds_ratio'][name]:.1f} times fewer seconds")
    entries = [(name, {"skipped": message}) for name, message in result["skipped"].items()]
    return "\n".join(lines) + "\n" + format_notes([*entries, ("", {"diverged": result["diverged"]})])


def _plan_methods(names: Sequence[str], series: Series, learning_rate: float | None) -> dict[str, tuple[Setup, Options]]:
    plans = {}
    for name in names:
        plan = plan_method(name, series.setup, series.options, learning_rate)
        if plan is None or not plan[1].steps:
            raise InvalidInputError(f"Speed to accuracy is of methods that are trained by steps; {name} is not.")
        plans[name] = plan
    return plans


def _run_plan(
    series: Series, folder: str, label: str, plan: tuple[Setup, Options], seed: int, **monitoring: Any
) -> dict[str, Any]:
    """Runs a plan with a seed, as `run_method`."""
    seeded = plan[0], dataclasses.replace(plan[1], seed=seed)
    return run_method(series, f"{folder}-{seed}", f"{label}, seed {seed}", seeded, series.train_set, **monitoring)


def _time_to(metrics: dict[str, Any], target: float) -> dict[str, Any]:
    reached = next((point for point in metrics["evaluations"] if point["top1"] >= target), None)
    return {
        "steps": None if reached is None else reached["step"],
        "seconds": None if reached is None else reached["seconds"],
        "final": metrics["test"]["top1"],
        "final_mean_class": metrics["test"]["mean_class"],
        **({"diverged": metrics["diverged"]} if "diverged" in metrics else {}),
    }


def _mean_ratio(rows: list[dict[str, Any]], name: str, unit: str) -> float | None:
    pairs = [(row["scratch"][unit], row[name][unit]) for row in rows]
    ratios = [scratch / image for scratch, image in pairs if scratch is not None and image is not None]
    return float(np.mean(ratios)) if ratios else None
