"""One finetuning run, from a setup and clouds to a folder with the network, its figures and its pictures."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.adapters import save_adapter
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.data import CloudSet, hold_out
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.run_folder import execute
from i2p_zoo.experiments.setup import Setup, build_model, check_folder, weights_of
from i2p_zoo.finetune import Classification, Options
from i2p_zoo.finetune.processes import evaluate_together
from i2p_zoo.finetune.tasks import check_classes


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
        monitor_test: monitor the test split instead, for learning curves; no weights are chosen by it, nor when to stop.
        resume: go on with a run that was stopped; one that is finished is not run again.
        save: "model"; "adapter", for image weights; or None for figures alone.
        tensorboard: write its event files too.
        progress: label of a progress bar.
        place: move the network to this process's device.

    Returns:
        What metrics.json holds, in every process: `test` with top1, mean_class and per_class as fractions, `history` by step,
        `evaluations` on the way, `trained` and `total` parameters, and the settings of the run.

    Raises:
        InvalidInputError: weights are to be chosen by the test split, the test split has other classes or no cloud, an adapter
            of random weights, or as `check_folder` and `execute`.
        I2PError, OSError: as the parts.
    """
    folder = Path(folder)
    check_choice(options, held_out, monitor_test)
    check_folder(setup)
    check_classes(train_set.classes, test_set.classes)
    if not len(test_set) or (save == "adapter" and setup.scratch):
        raise InvalidInputError(
            f"A run needs test clouds ({len(test_set)}), and an adapter image weights (scratch={setup.scratch})."
        )
    chosen, held = (train_set, None) if held_out is None else hold_out(train_set, held_out, options.seed)
    described = {
        "setup": setup.to_dict(),
        "options": options.to_dict(),
        "weights": weights_of(setup.model),
        "clouds": {"train": len(train_set), "test": len(test_set)},
        "sha256": {"train": train_set.fingerprint().hex(), "test": test_set.fingerprint().hex()},
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


def check_choice(options: Options, held_out: float | None, monitor_test: bool) -> None:
    """Raises InvalidInputError where the test split would say which weights are kept or when to stop."""
    if monitor_test and (held_out is not None or options.keep == "best" or options.target is not None):
        raise InvalidInputError(
            "Which weights to keep and when to stop is chosen on what is held out of training, never on the test split: give "
            f"`held_out` in place of `monitor_test` for keep={options.keep!r}, target={options.target}."
        )


def check_rate(options: Options, learning_rate: float | None) -> None:
    """Raises InvalidInputError where AdamW would train at the default rates, which are SGD's."""
    if options.optimizer == "adamw" and learning_rate is None:
        raise InvalidInputError("Give a learning rate with optimizer='adamw': the default ones are SGD's.")
