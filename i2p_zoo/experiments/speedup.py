"""Speed to accuracy: how much sooner image weights reach what training from scratch ends at (Image2Point, Figure 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.methods import choose_rate
from i2p_zoo.experiments.series import Series
from i2p_zoo.wording import count_of, join_words


def run_speedup(
    series: Series,
    *,
    seeds: int = 3,
    target: float | None = None,
    budgets: Sequence[int] = (),
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Trains a network with image weights and from scratch, each at its own learning rate, and compares their curves.

    A point on the way of a long schedule is not what a short one ends at: `budgets` measures how few steps are enough.

    Args:
        series: the network with image weights; the clouds, whose test split is measured along the way, and nothing is chosen
            by it; the options, whose seed and learning rate are set here; the folder, which gets speedup.json and .png.
        seeds: runs of each kind.
        target: the accuracy to reach; None for what training from scratch ends at with the same seed.
        budgets: more numbers of steps to train image weights for, each by a whole schedule of that length.
        learning_rate: of both kinds; None for each one's default.

    Returns:
        What speedup.json holds: for each seed the target, the steps and seconds to it by kind (None where it was not reached)
        and the final accuracies; `steps_ratio` and `seconds_ratio`, means over the seeds that reached it; for each budget the
        accuracies at its end, and `shortest`, the least whose mean is that of the targets or more (None for none).

    Raises:
        InvalidInputError: fewer than 1 seed, a budget of fewer than 1 step, no `evaluate_every`, a target at which runs stop,
            or AdamW without a rate.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    setup, options = series.setup, series.options
    if options.target is not None:
        raise InvalidInputError("Runs go on to the end: give `target` to `run_speedup`, not among the options.")
    if seeds < 1 or options.evaluate_every is None:
        raise InvalidInputError(f"Speed to accuracy needs seeds (={seeds}) of 1 or more, and `evaluate_every`.")
    if any(steps < 1 for steps in budgets):
        raise InvalidInputError(f"A budget is a number of steps, 1 or more; got budgets {join_words(budgets)}.")
    setups = {"image weights": setup, "scratch": dataclasses.replace(setup, scratch=True, mode="all")}
    rated = {
        name: dataclasses.replace(options, learning_rate=choose_rate(changed, options, learning_rate))
        for name, changed in setups.items()
    }
    curves: dict[str, list[dict[str, list[float]]]] = {name: [] for name in setups}
    rows: list[dict[str, Any]] = []
    ends: dict[str, list[float]] = {str(steps): [] for steps in sorted(budgets)}
    for seed in range(seeds):
        runs = {}
        for name, changed in setups.items():
            seeded = dataclasses.replace(rated[name], seed=seed)
            folder_name = f"{name.replace(' ', '-')}-{seed}"
            runs[name] = series.run(folder_name, f"{name}, seed {seed}", changed, seeded, monitor_test=True)
            points = runs[name]["evaluations"]
            curves[name].append({"x": [point["step"] for point in points], "y": [point["top1"] for point in points]})
        for steps in sorted(budgets):
            short = dataclasses.replace(rated["image weights"], seed=seed, steps=steps, evaluate_every=None)
            metrics = series.run(f"{steps}-steps-{seed}", f"{count_of(steps, 'step')}, seed {seed}", setup, short)
            ends[str(steps)].append(metrics["test"]["top1"])
        level = runs["scratch"]["test"]["top1"] if target is None else target
        rows.append({"target": level, **{name: _time_to(metrics, level) for name, metrics in runs.items()}})
    mean_level = float(np.mean([row["target"] for row in rows]))
    shortest = next((int(steps) for steps, top1 in ends.items() if np.mean(top1) >= mean_level), None)
    result = {
        "seeds": rows,
        "budgets": ends,
        "shortest": shortest,
        **{f"{unit}_ratio": _mean_ratio(rows, unit) for unit in ("steps", "seconds")},
    }
    series.write("speedup", result)
    pictures.draw_accuracies(series.path("speedup.png"), curves, target=mean_level)
    return result


def _time_to(metrics: dict[str, Any], target: float) -> dict[str, Any]:
    reached = next((point for point in metrics["evaluations"] if point["top1"] >= target), None)
    return {
        "steps": None if reached is None else reached["step"],
        "seconds": None if reached is None else reached["seconds"],
        "final": metrics["test"]["top1"],
        "final_mean_class": metrics["test"]["mean_class"],
    }


def _mean_ratio(rows: list[dict[str, Any]], unit: str) -> float | None:
    pairs = [(row["scratch"][unit], row["image weights"][unit]) for row in rows]
    ratios = [scratch / image for scratch, image in pairs if scratch is not None and image is not None]
    return float(np.mean(ratios)) if ratios else None
