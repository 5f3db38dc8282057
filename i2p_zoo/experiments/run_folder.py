"""The folder of a run: training, the one measurement of the test split, figures and pictures, and what was done before."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from filelock import FileLock, Timeout

from i2p_zoo import __version__, pictures
from i2p_zoo._extras import require
from i2p_zoo.checkpoints.saving import note_run, save_adapter, save_pretrained
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.experiments.run_options import RunOptions
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Evaluation, History, Options, ParameterCount, Step, Task, merge_lora_, train
from i2p_zoo.finetune.devices import find_device, make_accelerator
from i2p_zoo.finetune.training_state import FREE, count_steps
from i2p_zoo.staging import replacing
from i2p_zoo.wording import describe_value, format_json

METRICS, TRAINING, SETTINGS, _LOCK = "metrics.json", "training", "run.json", ".lock"


def execute(
    folder: Path,
    described: dict[str, Any],
    options: Options,
    task: Task,
    build: Callable[[], tuple[Any, ParameterCount]],
    measure: Callable[[Any, Any], tuple[dict[str, Any], Any]],
    run_options: RunOptions,
    draw: Callable[[Any], object] = lambda model: None,
) -> dict[str, Any]:
    """Trains a network, measures it once with the weights at the end, and writes what came of it.

    Args:
        folder: gets metrics.json, curves.png, confusion.png and the network; while it trains, the state of the run.
        described: the settings of the run, as JSON types; they name the `classes`.
        options, task: of the training.
        build: makes the network, and counts its parameters.
        measure: called with the network and the accelerator, gives the scores of the test split and their confusion.
        run_options: what is kept and shown, and whether a run goes on.
        draw: draws more pictures of the network, after the figures are written.

    Returns:
        What metrics.json holds, in every process; `seconds` are of what `build` does, in which a classifier may be solved for,
        and of the training, evaluations left out; `environment` is what the last bits depend on beside the settings.

    Raises:
        InvalidInputError: the folder holds a finished run that must not be resumed, or one of other settings, or another
            process works in it.
        MissingExtraError: what trains or draws is not installed.
        I2PError, OSError: as `i2p_zoo.finetune.train`, and as the functions that are passed.
    """
    accelerator = make_accelerator(options.precision, find_device(run_options.device))
    with _lock(folder) if accelerator.is_main_process else contextlib.nullcontext():
        if (finished := _find_finished(folder, described, run_options.resume)) is not None:
            return finished
        require("matplotlib.figure", "finetune")  # before the training whose figures it draws
        if accelerator.is_main_process:
            noted = folder / TRAINING / SETTINGS
            if count_steps(folder / TRAINING) and noted.is_file():  # else a run that failed before its first step
                _check_settings(folder / TRAINING, read_json(noted), described, "the state of a run")
            write_json(noted, described)
        start = time.perf_counter()
        model, count = build()
        preparation = time.perf_counter() - start
        reported = run_options.tensorboard and accelerator.is_main_process
        with report_to(folder / "tensorboard") if reported else contextlib.nullcontext() as report:
            history = train(
                model,
                task,
                options=options,
                folder=folder / TRAINING,
                resume=run_options.resume,
                accelerator=accelerator,
                progress=run_options.progress,
                report=report,
            )
        if described["setup"]["mode"] == "lora":
            merge_lora_(model)
        scores, confusion = measure(model, accelerator)
        accelerator.free_memory()
        figures = _gather_figures(described, count, preparation, history, scores, accelerator)
        if run_options.recipe is not None:
            figures["recipe"] = run_options.recipe
        metrics: dict[str, Any] = json.loads(format_json(figures))
        if accelerator.is_main_process:
            model = model.cpu()
            if run_options.save is not None:
                (save_adapter if run_options.save == "adapter" else save_pretrained)(model, folder / run_options.save)
                note_run(folder / run_options.save, metrics)
            write_json(folder / METRICS, metrics)  # before the pictures, which may fail
            classes = metrics["classes"]
            if losses := [step["loss"] for step in metrics["history"]]:
                name = "from scratch" if metrics["setup"]["scratch"] else metrics["setup"]["mode"]
                pictures.draw_curves(folder / "curves.png", {name: [losses]})
            pictures.draw_confusion(folder / "confusion.png", np.asarray(confusion)[: len(classes), : len(classes)], classes)
            draw(model.to(accelerator.device))
            shutil.rmtree(folder / TRAINING, ignore_errors=True)  # until then, resuming measures and draws again
        accelerator.wait_for_everyone()
        return metrics


def _gather_figures(
    described: dict[str, Any],
    count: ParameterCount,
    preparation: float,
    history: History,
    scores: dict[str, Any],
    accelerator: Any,
) -> dict[str, Any]:
    """What metrics.json holds."""
    entries = history.to_dict()
    metrics: dict[str, Any] = {
        "test": scores,
        **described,
        "trained": count.trained,
        "total": count.total,
        "seconds": preparation + history.seconds,
        "waited": history.waited,
        "history": entries["steps"],
        "evaluations": entries["evaluations"],
    }
    if (target := described["options"]["target"]) is not None:
        reached = history.reached(target)
        metrics["reached"] = None if reached is None else {"step": reached.step, "seconds": reached.seconds}
    metrics["environment"] = {
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "precision": accelerator.mixed_precision,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "i2p_zoo": __version__,
    }
    return metrics


def _find_finished(folder: Path, described: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Returns the metrics of a finished run of these settings, or None where a folder holds none or one that lacks pictures.

    Raises:
        InvalidInputError: the folder holds a finished run, and nothing is resumed, or one of other settings.
        CheckpointError: its metrics.json cannot be read.
    """
    if not (folder / METRICS).is_file():
        return None
    if not resume:
        raise InvalidInputError(f"{folder} holds a finished run. Use another folder, or resume to keep it.")
    metrics = read_json(folder / METRICS)
    _check_settings(folder, metrics, described, "a finished run")
    return None if count_steps(folder / TRAINING) else metrics


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InvalidInputError(f"Another process is running in {folder}. Wait for it, or use another folder.") from error


def _check_settings(folder: Path, noted: dict[str, Any], described: dict[str, Any], what: str) -> None:
    """Raises InvalidInputError where settings differ; one that an older version did not note had its default."""
    expected = json.loads(json.dumps(described))
    pairs = [(key, noted.get(key, value), value) for key, value in expected.items() if key not in ("options", "setup")]
    for group, owner, free in (("setup", Setup, ()), ("options", Options, FREE)):
        defaults, before = {field.name: field.default for field in fields(owner)}, noted.get(group, {})
        pairs += [(key, before.get(key, defaults[key]), value) for key, value in expected[group].items() if key not in free]
    if changes := [change for key, old, new in pairs if old != new for change in _describe_change(key, old, new)]:
        raise InvalidInputError(f"{folder} holds {what} of other settings: {'; '.join(changes)}. Use another folder.")


def _describe_change(key: str, old: Any, new: Any) -> list[str]:
    """Says what of a setting is another one, without hashes, which say nothing to a reader."""
    if key == "weights":
        return ["the network's weights were others"]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [f"{key} was {describe_value(old)} and is {describe_value(new)}"]
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if key == "sha256":
        return [f"the {name} data were others" for name in names]
    return [change for name in names for change in _describe_change(f"{key}.{name}", old.get(name), new.get(name))]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object; raises CheckpointError where it does not, or cannot be read."""
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InvalidInputError("it holds no object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Delete the folder, or use another.") from error
    return values


def write_text(path: Path, text: str) -> None:
    """Writes a text in place of a file, or leaves that as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Any) -> None:
    """Writes JSON in place of a file, or leaves that as it was."""
    write_text(path, format_json(values, indent=1) + "\n")


@contextlib.contextmanager
def report_to(folder: Path) -> Iterator[Callable[[Step | Evaluation], None]]:
    """Gives a function that writes steps and evaluations as TensorBoard's event files."""
    with require("torch.utils.tensorboard", "finetune").SummaryWriter(str(folder)) as writer:

        def report(entry: Step | Evaluation) -> None:
            group, values = ("train", vars(entry)) if isinstance(entry, Step) else ("monitored", entry.scores)
            for name, value in values.items():
                if name not in ("step", "seconds"):
                    writer.add_scalar(f"{group}/{name}", value, entry.step)

        yield report
