"""An ablation: one setting is changed at a time, several seeds each, judged on clouds held out of the training split."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import write_json
from i2p_zoo.experiments.runs import run
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options

VARIATIONS: dict[str, tuple[Any, ...]] = {
    "inflation": ("center", "average", "copy"),
    "axis": ("z", "y", "x"),
    "skip_downsamples": (0, 1, 2, 3),
    "voxel_size": (0.05, 0.07, 0.1),
    "stem": ("point", "image"),
    "features": ("xyz", "ones", "xyz,normals"),
    "learning_rate": (0.1, 0.2, 0.4, 0.8),
}
"""The settings that shape a finetuned network, each with the values to try."""


def run_ablation(
    setup: Setup,
    train_set: CloudSet,
    test_set: CloudSet,
    options: Options,
    folder: str | os.PathLike[str],
    *,
    variations: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 3,
    held_out: float = 0.25,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains the given setup and those that differ from it in one setting. Runs that `folder` holds are not run again.

    Args:
        setup, options: the run to vary.
        train_set, test_set: the clouds; no figure of the test split is looked at.
        folder: gets ablation.json, ablation.md and a folder a run.
        variations: values by field of `Setup` or `Options`; None for `VARIATIONS`.
        seeds: runs of each setting; the seed chooses the held-out clouds too.
        held_out: fraction of the training split to judge by.
        progress: show progress bars.

    Returns:
        What ablation.json holds: for each setting and value the held-out accuracies of the seeds.

    Raises:
        InvalidInputError: an unknown setting, or fewer than 1 seed.
        I2PError, OSError: as `run`.
    """
    varied = VARIATIONS if variations is None else variations
    fields = {field.name: Setup for field in dataclasses.fields(Setup)} | {
        field.name: Options for field in dataclasses.fields(Options)
    }
    unknown = sorted(varied.keys() - fields.keys())
    if unknown or seeds < 1:
        raise InvalidInputError(f"Settings to vary are {', '.join(fields)}, seeds 1 or more; got {unknown} and {seeds}.")
    folder = Path(folder)
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in varied}
    for seed in range(seeds):
        for name, values in varied.items():
            for value in values:
                chosen, trained = setup, dataclasses.replace(options, seed=seed)
                if fields[name] is Setup:
                    chosen = dataclasses.replace(setup, **{name: value})
                else:
                    trained = dataclasses.replace(trained, **{name: value})
                is_base = chosen == setup and trained == dataclasses.replace(options, seed=seed)
                label = "base" if is_base else f"{name}={value}"
                metrics = run(
                    chosen,
                    train_set,
                    test_set,
                    trained,
                    folder / f"{re.sub('[^A-Za-z0-9.=_-]', '-', label)}-{seed}",
                    held_out=held_out,
                    save=None,
                    resume=True,
                    progress=f"{label}, seed {seed}" if progress else None,
                )
                last = metrics["evaluations"][-1]
                kept = found[name].setdefault(str(value), {"top1": [], "mean_class": [], "seconds": []})
                for key in ("top1", "mean_class"):
                    kept[key].append(last[key])
                kept["seconds"].append(metrics["seconds"])
        write_json(folder / "ablation.json", found)  # what there is, after each seed
        (folder / "ablation.md").write_text(format_ablation(found), encoding="utf-8")
    return found


def format_ablation(found: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """Returns a Markdown table of held-out accuracy in %, mean and deviation over the seeds, a row each value."""
    lines = ["| setting | value | top-1 | mean over classes | seconds a run |", "|---|---|--:|--:|--:|"]
    for name, values in found.items():
        best = max(values, key=lambda value: float(np.mean(values[value]["top1"])))
        for value, figures in values.items():
            top1, mean_class = (100 * np.asarray(figures[key]) for key in ("top1", "mean_class"))
            cell = f"{top1.mean():.1f} ± {top1.std():.1f}"
            cell = f"**{cell}**" if value == best else cell
            lines.append(f"| {name} | {value} | {cell} | {mean_class.mean():.1f} | {np.mean(figures['seconds']):.0f} |")
    return "\n".join(lines) + "\n"
