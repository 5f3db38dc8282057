"""One finetuning run, from a setup and clouds to a folder with the network, its figures and its pictures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo._extras import require
from i2p_zoo.adapter import save_adapter
from i2p_zoo.checkpoint import save_pretrained
from i2p_zoo.data import CloudSet, hold_out
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.setup import Setup, build_model
from i2p_zoo.finetune import Evaluation, Options, Step, train
from i2p_zoo.finetune.processes import evaluate_together, make_accelerator
from i2p_zoo.staging import replacing

METRICS = "metrics.json"


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
    described = _describe(setup, train_set, test_set, options, held_out, monitor_test, save)
    finished = find_finished(folder, described, resume)
    if finished is not None:
        return finished
    chosen, held = (train_set, None) if held_out is None else hold_out(train_set, held_out, options.seed)
    monitor = test_set if monitor_test else held
    model, count = build_model(setup, train_set.classes, options.seed)
    accelerator = make_accelerator(options.precision, place)
    with report_to(folder / "tensorboard" if tensorboard and accelerator.is_main_process else None) as report:
        history = train(
            model,
            chosen,
            options=options,
            monitor=monitor,
            folder=folder / "training",
            resume=resume,
            accelerator=accelerator,
            progress=progress,
            report=report,
        )
    accuracy = evaluate_together(model, test_set, accelerator)
    accelerator.free_memory()
    metrics = {
        "test": accuracy.to_dict(),
        **described,
        "trained": count.trained,
        "total": count.total,
        "seconds": history.seconds,
        "waited": history.waited,
        "history": history.to_dict()["steps"],
        "evaluations": history.to_dict()["evaluations"],
    }
    if options.target is not None:
        reached = history.reached(options.target)
        metrics["reached"] = None if reached is None else {"step": reached.step, "seconds": reached.seconds}
    if accelerator.is_main_process:
        if save is not None:
            (save_adapter if save == "adapter" else save_pretrained)(model.cpu(), folder / save)
        _draw(folder, metrics, accuracy.confusion, train_set.classes)
        write_json(folder / METRICS, metrics)
        shutil.rmtree(folder / "training", ignore_errors=True)
    accelerator.wait_for_everyone()
    return metrics


def _describe(
    setup: Setup,
    train_set: CloudSet,
    test_set: CloudSet,
    options: Options,
    held_out: float | None,
    monitor_test: bool,
    save: str | None,
) -> dict[str, Any]:
    return {
        "setup": setup.to_dict(),
        "options": options.to_dict(),
        "clouds": {"train": len(train_set), "test": len(test_set), "classes": list(train_set.classes)},
        "held_out": held_out,
        "monitored": "test" if monitor_test else "held-out" if held_out is not None else None,
        "saved": save,
    }


def find_finished(folder: Path, described: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Returns the metrics of a run that is finished, or None where a folder holds none.

    Args:
        folder: of the run.
        described: the settings it must have had.
        resume: whether a finished run is welcome.

    Raises:
        InvalidInputError: the folder holds a finished run that is not welcome, or one of other settings.
    """
    if not (folder / METRICS).is_file():
        return None
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if not resume:
        raise InvalidInputError(f"{folder} holds a finished run. Use another folder, or resume to keep it.")
    if {key: metrics.get(key) for key in described} != json.loads(json.dumps(described)):
        raise InvalidInputError(f"{folder} holds a finished run of other settings. Use another folder.")
    return metrics


def write_json(path: Path, values: Any) -> None:
    """Writes JSON in place of a file, or leaves that as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def report_to(folder: Path | None) -> Iterator[Callable[[Step | Evaluation], None] | None]:
    """Gives a function that writes steps and evaluations as TensorBoard's event files."""
    if folder is None:
        yield None
        return
    require("tensorboard", "finetune")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def report(entry: Step | Evaluation) -> None:
            kind = "train" if isinstance(entry, Step) else "monitored"
            values = vars(entry) if isinstance(entry, Step) else entry.scores
            for name, value in values.items():
                if name not in ("step", "seconds"):
                    writer.add_scalar(f"{kind}/{name}", value, entry.step)

        yield report


def _draw(folder: Path, metrics: dict[str, Any], confusion: Any, classes: tuple[str, ...]) -> None:
    name = "from scratch" if metrics["setup"]["scratch"] else metrics["setup"]["mode"]
    pictures.draw_curves(folder / "curves.png", {name: [[step["loss"] for step in metrics["history"]]]})
    pictures.draw_confusion(folder / "confusion.png", np.asarray(confusion)[: len(classes), : len(classes)], classes)
