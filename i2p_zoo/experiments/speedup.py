"""Speed to accuracy: how much sooner image weights reach what training from scratch ends at (Image2Point, Figure 3)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import write_json
from i2p_zoo.experiments.runs import check_rate, run
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options


def run_speedup(
    setup: Setup,
    train_set: CloudSet,
    test_set: CloudSet,
    options: Options,
    folder: str | os.PathLike[str],
    *,
    seeds: int = 3,
    target: float | None = None,
    budgets: Sequence[int] = (),
    learning_rate: float | None = None,
    progress: bool = False,
    place: bool = False,
) -> dict[str, Any]:
    """Trains a network with image weights and from scratch, each at its own learning rate, and compares their curves.

    A point on the way of a long schedule is not what a short one ends at: `budgets` asks how few steps would have done.

    Args:
        setup: the network with image weights.
        train_set, test_set: the clouds; the test split is measured along the way, and nothing is chosen by it.
        options: of each run; its seed and learning rate are set here.
        folder: gets speedup.json, speedup.png and a folder a run; runs that it holds already are not run again.
        seeds: runs of each kind.
        target: the accuracy to reach; None for what training from scratch ends at with the same seed.
        budgets: numbers of steps to train image weights for besides, each by a whole schedule of that length.
        learning_rate: of both kinds; None for each one's default.
        progress: show progress bars.
        place: as `run`.

    Returns:
        What speedup.json holds: for each seed the target, the steps and seconds to it by kind (None where it was not reached)
        and the final accuracies; `steps_ratio` and `seconds_ratio`, means over the seeds that reached it; for each budget the
        accuracies at its end, and `shortest`, the least whose mean is that of the targets or more (None for none).

    Raises:
        InvalidInputError: fewer than 1 seed, a budget of fewer than 1 step, no `evaluate_every`, a target at which runs stop,
            or AdamW without a rate.
        I2PError, OSError: as `run`.
    """
    check_rate(options, learning_rate)
    if options.target is not None:
        raise InvalidInputError("Runs go on to the end: give `target` to `run_speedup`, not among the options.")
    if seeds < 1 or options.evaluate_every is None:
        raise InvalidInputError(f"Speed to accuracy needs seeds (={seeds}) of 1 or more, and `evaluate_every`.")
    if any(steps < 1 for steps in budgets):
        raise InvalidInputError(f"A budget is a number of steps, 1 or more; got budgets {list(budgets)}.")
    folder = Path(folder)
    kinds = {"image weights": setup, "scratch": dataclasses.replace(setup, scratch=True, mode="all")}
    curves: dict[str, list[dict[str, list[float]]]] = {name: [] for name in kinds}
    rows: list[dict[str, Any]] = []
    ends: dict[str, list[float]] = {str(steps): [] for steps in sorted(budgets)}
    repeated: dict[str, Any] = {"save": None, "resume": True, "place": place}
    for seed in range(seeds):
        runs = {}
        for name, chosen in kinds.items():
            changed = dataclasses.replace(options, seed=seed, learning_rate=learning_rate or chosen.learning_rate)
            own = folder / f"{name.replace(' ', '-')}-{seed}"
            label = f"{name}, seed {seed}" if progress else None
            how = {**repeated, "progress": label}
            runs[name] = run(chosen, train_set, test_set, changed, own, monitor_test=True, **how)
            points = runs[name]["evaluations"]
            curves[name].append({"x": [point["step"] for point in points], "y": [point["top1"] for point in points]})
        wanted = runs["scratch"]["test"]["top1"] if target is None else target
        for steps in sorted(budgets):
            rate = learning_rate or setup.learning_rate
            short = dataclasses.replace(options, seed=seed, learning_rate=rate, steps=steps, evaluate_every=None)
            how = {**repeated, "progress": f"{steps} steps, seed {seed}" if progress else None}
            found = run(setup, train_set, test_set, short, folder / f"{steps}-steps-{seed}", **how)
            ends[str(steps)].append(found["test"]["top1"])
        rows.append({"target": wanted, **{name: _time_to(found, wanted) for name, found in runs.items()}})
    level = float(np.mean([row["target"] for row in rows]))
    shortest = next((int(steps) for steps, top1 in ends.items() if np.mean(top1) >= level), None)
    result = {
        "seeds": rows,
        "budgets": ends,
        "shortest": shortest,
        **{f"{unit}_ratio": _mean_ratio(rows, unit) for unit in ("steps", "seconds")},
    }
    write_json(folder / "speedup.json", result)
    pictures.draw_accuracies(folder / "speedup.png", curves, target=level)
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
    ratios = [row["scratch"][unit] / row["image weights"][unit] for row in rows if _both(row, unit)]
    return float(np.mean(ratios)) if ratios else None


def _both(row: dict[str, Any], unit: str) -> bool:
    return all(row[name][unit] is not None for name in ("image weights", "scratch"))
