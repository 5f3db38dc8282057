"""The folder of a run: training, the one measurement of the test split, figures and pictures, and what was done before."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo import pictures
from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune import Evaluation, Options, ParameterCount, Step, Task, train
from i2p_zoo.finetune.processes import make_accelerator
from i2p_zoo.staging import replacing

METRICS = "metrics.json"


def execute(
    folder: Path,
    described: dict[str, Any],
    options: Options,
    task: Task,
    build: Callable[[], tuple[Any, ParameterCount]],
    measure: Callable[[Any, Any], tuple[dict[str, Any], Any]],
    save: Callable[[Any], object],
    *,
    resume: bool = False,
    tensorboard: bool = False,
    progress: str | None = None,
    place: bool = False,
) -> dict[str, Any]:
    """Trains a network, measures it once with the weights at the end, and writes what came of it.

    Args:
        folder: gets metrics.json, curves.png, confusion.png and what `save` writes; while it trains, the state of the run.
        described: the settings of the run, as JSON types; they name the `classes`.
        options, task: of the training.
        build: makes the network, and counts its parameters.
        measure: called with the network and the accelerator, gives the scores of the test split and their confusion.
        save: writes the network, on the CPU.
        resume: go on with a run that was stopped; one that is finished is not run again.
        tensorboard: write its event files too.
        progress: label of a progress bar.
        place: move the network to this process's device.

    Returns:
        What metrics.json holds, in every process.

    Raises:
        InvalidInputError: the folder holds a finished run that is not to be resumed, or one of other settings.
        I2PError, OSError: as `i2p_zoo.finetune.train` and the given functions.
    """
    finished = find_finished(folder, described, resume)
    if finished is not None:
        return finished
    model, count = build()
    accelerator = make_accelerator(options.precision, place)
    with report_to(folder / "tensorboard" if tensorboard and accelerator.is_main_process else None) as report:
        history = train(
            model,
            task,
            options=options,
            folder=folder / "training",
            resume=resume,
            accelerator=accelerator,
            progress=progress,
            report=report,
        )
    scores, confusion = measure(model, accelerator)
    accelerator.free_memory()
    told = history.to_dict()
    metrics: dict[str, Any] = {
        "test": scores,
        **described,
        "trained": count.trained,
        "total": count.total,
        "seconds": history.seconds,
        "waited": history.waited,
        "history": told["steps"],
        "evaluations": told["evaluations"],
    }
    if options.target is not None:
        reached = history.reached(options.target)
        metrics["reached"] = None if reached is None else {"step": reached.step, "seconds": reached.seconds}
    metrics = json.loads(json.dumps(metrics))
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        save(model.cpu())
        _draw(folder, metrics, confusion)
        write_json(folder / METRICS, metrics)
        shutil.rmtree(folder / "training", ignore_errors=True)
    accelerator.wait_for_everyone()
    return metrics


def _draw(folder: Path, metrics: dict[str, Any], confusion: Any) -> None:
    classes = metrics["classes"]
    name = "from scratch" if metrics["setup"]["scratch"] else metrics["setup"]["mode"]
    pictures.draw_curves(folder / "curves.png", {name: [[step["loss"] for step in metrics["history"]]]})
    pictures.draw_confusion(folder / "confusion.png", np.asarray(confusion)[: len(classes), : len(classes)], classes)


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
