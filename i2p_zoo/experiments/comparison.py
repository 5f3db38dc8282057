"""All methods on the same training split, several seeds each, in one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.intervals import format_percent
from i2p_zoo.experiments.methods import METHODS, find_impossible, plan_method, run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options
from i2p_zoo.wording import count_of, join_words


def run_comparison(
    series: Series, *, methods: Sequence[str] | None = None, seeds: int = 5, learning_rate: float | None = None
) -> dict[str, Any]:
    """Runs each method with each seed. The test split is measured whole, once a run, with the weights at the end.

    Runs that the folder holds are not run again, and the table is written after each, so that it can be stopped at any time,
    and several processes can share the methods among them.

    Args:
        series: the network, apart from what a method changes; the clouds; the options, whose seed is set here; the folder,
            which gets comparison.json and .md.
        methods: of `METHODS`; None for all. Those of all that the setup cannot have are told.
        seeds: runs of each; a method that draws nothing at random, such as the nearest cloud, has one.
        learning_rate: of every method; None for each one's own.

    Returns:
        What comparison.json holds: for each method lists of top1, mean_class and seconds by seed (seconds without those that
        diverged), the number of trained parameters, the peak learning rate where there were steps, and how many runs
        diverged; or `skipped`, why there are none.

    Raises:
        InvalidInputError: fewer than 1 seed, or as `plan_method`.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    impossible = find_impossible(series.setup) if methods is None else {}
    names = [name for name in METHODS if name not in impossible] if methods is None else methods
    if not names or seeds < 1:
        raise InvalidInputError(
            f"A comparison needs methods ({join_words(names) or 'none'}) and seeds (={seeds}) of 1 or more."
        )
    plans = {name: plan_method(name, series.setup, series.options, learning_rate) for name in names}
    figures: dict[str, Any] = {name: {"skipped": reason} for name, reason in impossible.items()}
    for seed in range(seeds):
        for name, plan in plans.items():
            if seed and not _is_random(plan):
                continue
            seeded = None if plan is None else (plan[0], replace(plan[1], seed=seed))
            folder = f"{name_folder(name)}-{seed}"
            metrics = run_method(series, folder, f"{name}, seed {seed}", seeded, series.train_set)
            note_metrics_(figures.setdefault(name, {}), metrics)
            series.write("comparison", figures, format_comparison(figures))
    return figures


def _is_random(plan: tuple[Setup, Options] | None) -> bool:
    """Whether a method's runs differ by their seed."""
    return plan is not None and (plan[1].steps > 0 or plan[0].has_random_weights)


def name_folder(text: str) -> str:
    """Returns a text as the name of a folder."""
    return re.sub("[^A-Za-z0-9.=_-]+", "-", text)


def note_metrics_(figures: dict[str, Any], metrics: Mapping[str, Any]) -> None:
    """Adds a run's metrics to the lists of its method, or notes why there are none."""
    if "skipped" in metrics:
        figures["skipped"] = metrics["skipped"]
        return
    for key in ("top1", "mean_class"):
        figures.setdefault(key, []).append(metrics["test"][key])
    figures.setdefault("seconds", []).extend([] if "diverged" in metrics else [metrics["seconds"]])
    figures["diverged"] = figures.get("diverged", 0) + ("diverged" in metrics)
    if "trained" in metrics:
        figures["trained"] = metrics["trained"]
    if metrics.get("history"):
        figures["learning_rate"] = metrics["options"]["learning_rate"]


def format_comparison(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table, a row a method, the best first: accuracy in % as mean ± deviation [95 % interval]."""
    titles = ("method", "runs", "trained parameters", "learning rate", "top-1", "mean over classes", "seconds")
    lines = [f"| {' | '.join(titles)} |", f"|---|{'--:|' * (len(titles) - 1)}"]
    for name, entry in sorted(figures.items(), key=lambda pair: -float(np.mean(pair[1].get("top1", 0)))):
        runs = "" if "skipped" in entry else str(len(entry["top1"]))
        trained = f"{entry['trained']:,d}" if "trained" in entry else ""
        cells = (name, runs, trained, f"{entry.get('learning_rate', '')}", *format_entry(entry))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + format_notes(figures.items())


def format_entry(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns accuracy, mean over classes and seconds of a method's runs, as cells of a table."""
    if "skipped" in entry:
        return format_accuracy(entry), "", ""
    seconds = f"{np.mean(entry['seconds']):.0f}" if entry["seconds"] else ""
    return format_accuracy(entry), f"{100 * np.mean(entry['mean_class']):.1f}", seconds


def format_accuracy(entry: Mapping[str, Any]) -> str:
    """Returns accuracy in % as mean ± deviation [95 % interval], with how many runs diverged; or that there was none."""
    if "skipped" in entry:
        return "left out"
    diverged = f", {entry['diverged']} diverged" if entry["diverged"] else ""
    return f"{format_percent(entry['top1'])}{diverged}"


def format_notes(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Returns what a table says below itself of methods that were left out and of runs that diverged; nothing of neither."""
    named = list(entries)
    notes = dict.fromkeys(f"{name} was left out. {entry['skipped']}" for name, entry in named if "skipped" in entry)
    diverged = sum(entry.get("diverged", 0) for _, entry in named)
    lines = [*notes, *([f"{count_of(diverged, 'run')} diverged; each counts as the guess of one class."] if diverged else [])]
    return "".join(f"\n{line}\n" for line in lines)
