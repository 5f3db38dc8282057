"""One finetuning run, from a setup and clouds to a folder with the network, its figures and its pictures."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from i2p_zoo.adapter import save_adapter
from i2p_zoo.checkpoint import save_pretrained
from i2p_zoo.data import CloudSet, hold_out
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import execute
from i2p_zoo.experiments.setup import Setup, build_model
from i2p_zoo.finetune import Classification, Options
from i2p_zoo.finetune.processes import evaluate_together


def run(
    setup: Setup,
    train_set: CloudSet,
    test_set: CloudSet,
    options: Options,
    folder: str | os.PathLike[str],
    *,
    held_out: float | None = None,
    monitor_test: bool = False,
    resume: bool = False,
    save: str | None = "model",
    tensorboard: bool = False,
    progress: str | None = None,
    place: bool = False,
) -> dict[str, Any]:
    """Trains a network and measures it on the test split, once, with the weights at the end.

    Args:
        setup: the network.
        train_set, test_set: the clouds.
        options: of the training.
        folder: gets metrics.json, curves.png, confusion.png and the network; while it trains, the state of the run.
        held_out: fraction of the training split that is not trained on but monitored, to choose the best weights or to stop.
        monitor_test: monitor the test split instead, for learning curves; no weights are chosen by it.
        resume: go on with a run that was stopped; one that is finished is not run again.
        save: "model", "adapter", or None for figures alone.
        tensorboard: write its event files too.
        progress: label of a progress bar.
        place: move the network to this process's device.

    Returns:
        What metrics.json holds, in every process: `test` with top1, mean_class and per_class as fractions, `history` by step,
        `evaluations` on the way, `trained` and `total` parameters, and the settings of the run.

    Raises:
        InvalidInputError: weights are to be chosen by the test split, or the folder holds a run already.
        I2PError, OSError: as the parts.
    """
    folder = Path(folder)
    if monitor_test and (held_out is not None or options.keep == "best"):
        raise InvalidInputError("Weights are chosen on held-out clouds, never on the test split: give `held_out` alone.")
    chosen, held = (train_set, None) if held_out is None else hold_out(train_set, held_out, options.seed)
    described = {
        "setup": setup.to_dict(),
        "options": options.to_dict(),
        "clouds": {"train": len(train_set), "test": len(test_set)},
        "classes": list(train_set.classes),
        "held_out": held_out,
        "monitored": "test" if monitor_test else "held-out" if held_out is not None else None,
        "saved": save,
    }

    def measure(model: Any, accelerator: Any) -> tuple[dict[str, Any], Any]:
        accuracy = evaluate_together(model, test_set, accelerator)
        return accuracy.to_dict(), accuracy.confusion

    def write(model: Any) -> None:
        if save is not None:
            (save_adapter if save == "adapter" else save_pretrained)(model, folder / save)

    task = Classification(chosen, test_set if monitor_test else held)
    build = functools.partial(build_model, setup, train_set.classes, options.seed)
    how: dict[str, Any] = {"resume": resume, "tensorboard": tensorboard, "progress": progress, "place": place}
    return execute(folder, described, options, task, build, measure, write, **how)
