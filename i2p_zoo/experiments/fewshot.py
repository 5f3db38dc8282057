"""Few-shot finetuning: the same clouds for every method, several trials, a table like Image2Point's Table 3."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo.data import choose_shots
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.series import Series, choose_rate
from i2p_zoo.experiments.setup import check_folder, stem_of
from i2p_zoo.wording import count_of, join_words

METHODS: dict[str, dict[str, Any]] = {
    "scratch": {"scratch": True, "mode": "all"},
    "probe": {"mode": "head", "stem": "image"},
    "io": {"mode": "io"},
    "io+bn": {"mode": "io+bn"},
    "all": {"mode": "all"},
}
"""What differs from the given setup, by method. A linear probe keeps the image stem, which a new one would blind."""


def run_fewshot(
    series: Series,
    *,
    shots: Sequence[int] = (1, 5, 10),
    trials: int = 3,
    methods: Sequence[str] = ("scratch", "all"),
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Trains each method on the same few clouds of each class. The test split is measured whole.

    Args:
        series: the network, apart from what the method changes; the clouds, of which shots are drawn with the trial's number
            as seed; the options, whose seed is the trial's number; the folder, which gets fewshot.json, .md and .png.
        shots: clouds a class.
        trials: runs of each kind.
        methods: of `METHODS`.
        learning_rate: of every method; None for each one's default.

    Returns:
        What fewshot.json holds: for each method and number of shots the accuracies of the trials.

    Raises:
        InvalidInputError: an unknown method, a linear probe of a folder whose network lost its image stem, more shots than a
            class has clouds, or AdamW without a rate.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    if not methods or set(methods) - METHODS.keys() or trials < 1:
        raise InvalidInputError(f"Methods are {', '.join(METHODS)}, trials 1 or more; got {join_words(methods)} and {trials}.")
    blind = ", ".join(name for name in methods if METHODS[name].get("stem") == "image")
    if blind and stem_of(series.setup.model) not in (None, "image"):
        raise InvalidInputError(
            f"{series.setup.model} has a {stem_of(series.setup.model)} stem, and {blind} trains a classifier on the image "
            f"stem: leave {blind} out of the methods, or give the name of a zoo network."
        )
    setups = {name: dataclasses.replace(series.setup, **METHODS[name]) for name in methods}
    rated = {name: choose_rate(changed, series.options, learning_rate) for name, changed in setups.items()}
    for changed in setups.values():
        check_folder(changed)
    shot_sets = {(count, trial): choose_shots(series.train_set, count, trial) for count in shots for trial in range(trials)}
    figures: dict[str, Any] = {name: {str(count): {"top1": [], "mean_class": []} for count in shots} for name in methods}
    for (count, trial), clouds in shot_sets.items():
        for name in methods:
            label = f"{name}, {count_of(count, 'shot')}, trial {trial}"
            seeded = dataclasses.replace(rated[name], seed=trial)
            metrics = series.run(f"{name}-{count}-shot-{trial}", label, setups[name], seeded, clouds)
            for key, values in figures[name][str(count)].items():
                values.append(metrics["test"][key])
    result = {"shots": list(shots), "trials": trials, "methods": figures}
    series.write("fewshot", result, format_table(result))
    lines = {
        name: [{"x": [float(count) for count in by_shots], "y": [float(np.mean(v["top1"])) for v in by_shots.values()]}]
        for name, by_shots in figures.items()
    }
    pictures.draw_accuracies(series.path("fewshot.png"), lines, label="clouds of each class")
    return result


def format_table(result: dict[str, Any]) -> str:
    """Returns a Markdown table of test accuracy in %, mean and deviation over the trials, a row each method."""
    counts = [str(count) for count in result["shots"]]
    lines = [f"| | {' | '.join(f'{count}-shot' for count in counts)} |", f"|---|{'--:|' * len(counts)}"]
    for name, by_shots in result["methods"].items():
        cells = [f"{100 * np.mean(by_shots[c]['top1']):.1f} ± {100 * np.std(by_shots[c]['top1']):.1f}" for c in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
