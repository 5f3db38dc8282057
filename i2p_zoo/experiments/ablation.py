"""An ablation: one setting is changed at a time, several seeds each, judged on clouds held out of the training split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from i2p_zoo.choices import AXES, INFLATIONS
from i2p_zoo.data import CloudSet, hold_out
from i2p_zoo.data.clouds import divide_shots
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.comparison import format_entry, format_notes, name_folder, note_metrics_
from i2p_zoo.experiments.methods import run_method
from i2p_zoo.experiments.series import Series
from i2p_zoo.experiments.setup import Setup, check_folder, fits_annotation, stem_of
from i2p_zoo.finetune import Options

VARIATIONS: dict[str, tuple[Any, ...]] = {
    "inflation": INFLATIONS,
    "axis": AXES,
    "skip_downsamples": (0, 1, 2, 3),
    "voxel_size": (0.05, 0.07, 0.1),
    "stem": ("point", "image"),
    "features": ("xyz", "ones", "xyz,normals", "rgb", "xyz,rgb"),
    "learning_rate": (0.1, 0.2, 0.4, 0.8),
}
"""The settings that shape a finetuned network, each with the values to try."""


def run_ablation(
    series: Series,
    *,
    variations: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    held_out: float = 0.25,
    shots: int | None = None,
) -> dict[str, Any]:
    """Trains a setup and those that differ from it in one setting.

    Args:
        series: the run to vary; no figure of its test split is looked at. Its folder gets ablation.json and ablation.md.
        variations: values by field of `Setup` or `Options`; None for `default_variations`.
        seeds: runs of each setting; the seed chooses the held-out clouds too.
        held_out: fraction of the training split to judge by.
        shots: train on only this many clouds of each class of the rest; the others are for setups that take unlabelled ones.

    Returns:
        What ablation.json holds: for each setting and value the held-out accuracies of the seeds, as
        `run_comparison` has them.

    Raises:
        InvalidInputError: an unknown setting, a value of another type or that the model's folder cannot have, weights that are
            to be chosen by what judges them, or fewer than 1 seed.
        I2PError, OSError: as `i2p_zoo.experiments.run`.
    """
    varied = dict(default_variations(series.setup, series.train_set) if variations is None else variations)
    if seeds < 1:
        raise InvalidInputError(f"An ablation needs seeds (={seeds}) of 1 or more.")
    figures: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in varied}
    for name, value, label, setup, options in _list_runs(series, varied, seeds):
        folder_name = f"{name_folder(label)}-{options.seed}"
        rest, judged = hold_out(series.train_set, held_out, options.seed)
        tested = dataclasses.replace(series, test_set=judged)  # so that no figure of the test split is looked at
        clouds, others = (rest, None) if shots is None else divide_shots(rest, shots, options.seed)
        metrics = run_method(tested, folder_name, f"{label}, seed {options.seed}", (setup, options), clouds, others)
        note_metrics_(figures[name].setdefault(str(value), {}), metrics)
        series.write("ablation", figures, format_ablation(figures))  # what there is, after each run
    return figures


def default_variations(setup: Setup, clouds: CloudSet) -> dict[str, tuple[Any, ...]]:
    """Returns `VARIATIONS` without those that cannot be run.

    These are another axis than a folder's own; an image stem that a folder's network has lost, and then another inflation and
    other numbers of channels too; other stems and features than views have; and normals and colours that the clouds do not
    have.
    """
    varied = dict(VARIATIONS)
    if os.path.isdir(setup.model):
        del varied["axis"]
    if stem_of(setup.model) not in (None, "image"):
        del varied["stem"], varied["inflation"]
        widths = {value: dataclasses.replace(setup, features=value).in_chans for value in varied["features"]}
        varied["features"] = tuple(value for value, width in widths.items() if width == setup.in_chans)
    if setup.readout == "pyramid+views":
        varied["stem"], varied["features"] = (setup.stem,), (setup.features,)
    absent = [name for name in ("normals", "rgb") if getattr(clouds, name) is None]
    varied["features"] = tuple(value for value in varied["features"] if not any(name in value for name in absent))
    return {name: values for name, values in varied.items() if len(values) > 1}


def _list_runs(series: Series, varied: Mapping[str, Sequence[Any]], seeds: int) -> list[tuple[str, Any, str, Setup, Options]]:
    """Returns setting, value, label, setup and options of each run; raises InvalidInputError before any of them begins."""
    runs = []
    for seed in range(seeds):
        base = dataclasses.replace(series.options, seed=seed)
        for name, values in varied.items():
            for value in values:
                setup, options = _change(series.setup, base, name, value)
                check_folder(setup)
                if options.keep == "best" or options.target is not None:
                    raise InvalidInputError(
                        "An ablation judges the weights at the end of each run, on clouds that nothing was chosen by: leave "
                        f"out keep={options.keep!r} and target={options.target}."
                    )
                series.train_set.require_features(setup.features)
                label = "base" if (setup, options) == (series.setup, base) else f"{name}={value}"
                runs.append((name, value, label, setup, options))
    return runs


def _change(setup: Setup, options: Options, name: str, value: Any) -> tuple[Setup, Options]:
    """Returns both with one setting changed; raises InvalidInputError for an unknown one or a value of another type."""
    owners: dict[str, Any] = {field.name: owner for owner in (setup, options) for field in dataclasses.fields(owner)}
    if name not in owners or not fits_annotation(type(owners[name]), name, value):
        raise InvalidInputError(f"Settings to vary are {', '.join(owners)}, each by values of its kind; got {name}={value!r}.")
    changed = dataclasses.replace(owners[name], **{name: value})
    return (changed, options) if owners[name] is setup else (setup, changed)


def format_ablation(varied: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Returns a Markdown table of held-out accuracy in %, mean ± deviation [95 % interval] over the seeds, a row each value.

    Below stand which values were left out, and how many runs diverged.
    """
    lines = ["| setting | value | top-1 | mean over classes | seconds a run |", "|---|---|--:|--:|--:|"]
    for name, values in varied.items():
        best = max(values, key=lambda value: float(np.mean(values[value].get("top1", 0))), default=None)
        for value, entry in values.items():
            accuracy, mean_class, seconds = format_entry(entry)
            accuracy = f"**{accuracy}**" if value == best else accuracy
            lines.append(f"| {name} | {value} | {accuracy} | {mean_class} | {seconds} |")
    entries = ((f"{name}={value}", entry) for name, values in varied.items() for value, entry in values.items())
    return "\n".join(lines) + "\n" + format_notes(entries)
