"""All methods on the same training split, several seeds each, in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.intervals import format_percent
from i2p_zoo.experiments.methods import METHODS, plan_method, run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.wording import count_of, join_words


def run_comparison(
    series: Series, *, methods: Sequence[str] = tuple(METHODS), seeds: int = 5, learning_rate: float | None = None
) -> dict[str, Any]:
    """Runs each method with each seed. The test split is measured whole, once a run, with the weights at the end.

    Runs that the folder holds are not run again, and the table is written after each, so that it can be stopped at any time,
    and several processes can share the methods among them.

    Args:
        series: the network, apart from what a method changes; the clouds; the options, whose seed is set here; the folder,
            which gets comparison.json and .md.
        methods: of `METHODS`.
        seeds: runs of each; a method without a network has one.
        learning_rate: of every method; None for each one's own.

    Returns:
        What comparison.json holds: for each method lists of top1, mean_class and seconds by seed, the number of trained
        parameters, and how many runs diverged.

    Raises:
        InvalidInputError: fewer than 1 seed, or as `plan_method`.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    if not methods or seeds < 1:
        raise InvalidInputError(
            f"A comparison needs methods ({join_words(methods) or 'none'}) and seeds (={seeds}) of 1 or more."
        )
    plans = {name: plan_method(name, series.setup, series.options, learning_rate) for name in methods}
    figures: dict[str, Any] = {}
    for seed in range(seeds):
        for name, plan in plans.items():
            if plan is None and seed:
                continue
            seeded = None if plan is None else (plan[0], replace(plan[1], seed=seed))
            folder = f"{name_folder(name)}-{seed}"
            metrics = run_method(series, folder, f"{name}, seed {seed}", seeded, series.train_set)
            note_metrics_(figures.setdefault(name, {}), metrics)
            series.write("comparison", figures, format_comparison(figures))
    return figures


def name_folder(text: str) -> str:
    """Returns a text as the name of a folder."""
    return re.sub("[^A-Za-z0-9.=_-]+", "-", text)


def note_metrics_(figures: dict[str, Any], metrics: Mapping[str, Any]) -> None:
    """Adds a run's metrics to the lists of its method."""
    values = {**{key: metrics["test"][key] for key in ("top1", "mean_class")}, "seconds": metrics["seconds"]}
    for key, value in values.items():
        figures.setdefault(key, []).append(value)
    figures["diverged"] = figures.get("diverged", 0) + ("diverged" in metrics)
    if "trained" in metrics:
        figures["trained"] = metrics["trained"]


def format_comparison(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table, a row a method, the best first: accuracy in % as mean ± deviation [95 % interval]."""
    lines = ["| method | runs | trained parameters | top-1 | mean over classes | seconds |", "|---|--:|--:|--:|--:|--:|"]
    for name, entry in sorted(figures.items(), key=lambda pair: -float(np.mean(pair[1]["top1"]))):
        count = len(entry["top1"])
        runs = f"{count}, {entry['diverged']} diverged" if entry["diverged"] else str(count)
        trained = f"{entry['trained']:,d}" if "trained" in entry else ""
        mean_class = 100 * np.mean(entry["mean_class"])
        seconds = f"{np.mean(entry['seconds']):.0f}"
        lines.append(f"| {name} | {runs} | {trained} | {format_percent(entry['top1'])} | {mean_class:.1f} | {seconds} |")
    diverged = sum(entry["diverged"] for entry in figures.values())
    note = f"\n{count_of(diverged, 'run')} diverged; each counts as the guess of one class.\n" if diverged else ""
    return "\n".join(lines) + "\n" + note
