"""Few-shot finetuning: the same clouds for every method, several trials, a table like Image2Point's Table 3."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo.data.clouds import divide_shots
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.comparison import format_accuracy, format_notes, name_folder, note_metrics_
from i2p_zoo.experiments.methods import plan_method, run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.wording import count_of, join_words


def run_fewshot(
    series: Series,
    *,
    shots: Sequence[int] = (1, 5, 10),
    trials: int = 3,
    methods: Sequence[str] = ("scratch", "all"),
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Trains each method on the same few clouds of each class; the others are for methods that take unlabelled ones.

    The test split is measured whole.

    Args:
        series: the network, apart from what the method changes; the clouds, of which shots are drawn with the trial's number
            as seed; the options, whose seed is the trial's number; the folder, which gets fewshot.json, .md and .png.
        shots: clouds a class.
        trials: runs of each kind.
        methods: of `METHODS`.
        learning_rate: of every method; None for each one's own.

    Returns:
        What fewshot.json holds: for each method and number of shots the figures of the trials, as `run_comparison` has them.

    Raises:
        InvalidInputError: no method or trial, more shots than a class has clouds, none left for a method that takes unlabelled
            ones, or as `plan_method`.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    if not methods or trials < 1:
        raise InvalidInputError(
            f"Few shots need methods ({join_words(methods) or 'none'}) and trials (={trials}) of 1 or more."
        )
    plans = {name: plan_method(name, series.setup, series.options, learning_rate) for name in methods}
    shot_sets = {(count, trial): divide_shots(series.train_set, count, trial) for trial in range(trials) for count in shots}
    for name, plan in plans.items():
        for (count, _), (_, others) in shot_sets.items():
            if plan is not None and plan[0].unlabelled and not len(others):
                raise InvalidInputError(
                    f"{name!r} needs clouds beside those with labels, and {count_of(count, 'shot')} of each class are all."
                )
    figures: dict[str, Any] = {name: {str(count): {} for count in shots} for name in methods}
    for (count, trial), (clouds, others) in shot_sets.items():
        for name, plan in plans.items():
            folder, label = f"{name_folder(name)}-{count}-shot-{trial}", f"{name}, {count_of(count, 'shot')}, trial {trial}"
            seeded = None if plan is None else (plan[0], dataclasses.replace(plan[1], seed=trial))
            note_metrics_(figures[name][str(count)], run_method(series, folder, label, seeded, clouds, others))
        _write(series, {"shots": list(shots), "trials": trials, "methods": figures})
    return {"shots": list(shots), "trials": trials, "methods": figures}


def _write(series: Series, result: dict[str, Any]) -> None:
    """Writes what there is of figures, table and picture."""
    series.write("fewshot", result, format_table(result))
    lines = {}
    for name, by_shots in result["methods"].items():
        measured = {float(count): float(np.mean(entry["top1"])) for count, entry in by_shots.items() if "top1" in entry}
        lines[name] = [{"x": list(measured), "y": list(measured.values())}]
    pictures.draw_accuracies(series.path("fewshot.png"), lines, label="clouds of each class")


def format_table(result: dict[str, Any]) -> str:
    """Returns a Markdown table of test accuracy in %, mean ± deviation [95 % interval] over the trials, a row each method.

    Below stand which methods were left out, and how many runs diverged.
    """
    counts = [str(count) for count in result["shots"]]
    lines = [f"| | {' | '.join(f'{count}-shot' for count in counts)} |", f"|---|{'--:|' * len(counts)}"]
    for name, by_shots in result["methods"].items():
        cells = [format_accuracy(by_shots[count]) if by_shots[count] else "" for count in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    entries = ((name, entry) for name, by_shots in result["methods"].items() for entry in by_shots.values())
    return "\n".join(lines) + "\n" + format_notes(entries)
