"""The training loop, on Accelerate: plain enough to copy, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from i2p_zoo.data import CloudSet
from i2p_zoo.data.batches import VoxelBatch
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.finetune import training_state
from i2p_zoo.finetune.devices import find_device, find_launched, make_accelerator, resolve_precision
from i2p_zoo.finetune.freezing import find_io
from i2p_zoo.finetune.held_signals import HeldSignals
from i2p_zoo.finetune.history import Evaluation, History, Step
from i2p_zoo.finetune.options import Options
from i2p_zoo.finetune.prefetching import explain_killed_workers, prefetch
from i2p_zoo.finetune.tasks import Classification, Task
from i2p_zoo.finetune.training_state import TrainingState
from i2p_zoo.modules import count_classes, set_class_names_
from i2p_zoo.sparse.batch_norm import synchronize_norms
from i2p_zoo.sparse.device_memory import explain_memory
from i2p_zoo.wording import count_of

_LESS_AT_ONCE = (
    "Go through each batch in more parts by `accumulate` (`--accumulate`), or take a larger voxel size or a smaller batch_size."
)


def train(
    model: Any,
    clouds: CloudSet | Task,
    *,
    options: Options | None = None,
    monitor: CloudSet | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | None = None,
    accelerator: Any = None,
    progress: str | None = None,
    report: Callable[[Step | Evaluation], None] | None = None,
    **changes: Any,
) -> History:
    """Trains a network in place.

    Every batch, augmentation and dropout follows from the seed and the step's number, so a run that goes on from a saved
    state gives the same history as one that was never stopped (bit for bit on a CPU with the same number of threads).

    Args:
        model: a `PointCloudModel`; what `freeze` left trainable trains. It ends in eval mode, and notes how the clouds are
            normalised, the names of the classes, which `class_names` of `i2p_zoo.modules`, its checkpoints and
            `i2p-zoo predict` have from then on, and what files call them, which `i2p-zoo segment predict` writes.
        clouds: the training split; or a `Task`, which brings its own clouds to monitor.
        options: by default `Options()`.
        monitor: clouds to measure accuracy on along the way. Choose the best weights, or anything else, on clouds held out of
            the training split (`i2p_zoo.data.hold_out`), never on test clouds.
        folder: where to save the state of the run every `save_every` steps and at the end; None for nowhere.
        resume: go on from the state in `folder`, where there is one.
        device: where to train, as `i2p_zoo.finetune.devices.find_device` takes it; the network moves there before the first
            step, and stays. By default the GPU that it is on, else "auto": the GPU, where there is one.
        accelerator: by default one of this process; else its device and precision are the run's.
        progress: label of a progress bar; None for no bar.
        report: called with each step and evaluation, on the first process.
        **changes: fields of `Options`, such as `steps=300`.

    Returns:
        The history.

    Raises:
        InvalidInputError: options out of range, nothing to train, a batch that does not divide among processes, "best" or a
            target without clouds to monitor, clouds without a feature that the network reads, a device that is not here, an
            accelerator of another device or precision, or a folder that holds another run.
        DivergedError: the loss is no longer finite.
        DeviceMemoryError: a GPU's memory does not suffice for a batch, or its part; also a `torch.OutOfMemoryError`.
        WorkerError: one of `workers` was killed.
        CheckpointError: a saved state is damaged.
        KeyboardInterrupt: by Ctrl-C; with a folder after the step at hand, whose state is saved, and at once by a second one.
        MissingExtraError: accelerate is not installed.
        OSError: the state cannot be saved before the first step; later only a warning is given.
    """
    options = dataclasses.replace(options or Options(), **changes)
    task = Classification(clouds, monitor) if isinstance(clouds, CloudSet) else clouds
    for judged in (clouds, monitor):
        if isinstance(judged, CloudSet):
            judged.require_features(model.settings.features)
    state_folder = None if folder is None else Path(folder)
    goes_on = state_folder is not None and training_state.count_steps(state_folder) > 0  # else it failed before its first step
    if goes_on and not resume:
        raise InvalidInputError(f"{state_folder} holds the state of a training run: resume it, or use another folder.")
    run_device = _choose_device(model, device, accelerator)
    options = dataclasses.replace(options, precision=_choose_precision(options.precision, run_device, accelerator))
    run = _Run(model, task, options, accelerator or make_accelerator(options.precision, run_device), report)
    saved = None
    if state_folder is not None and goes_on:
        saved = training_state.load_training_state(state_folder, options, run.fingerprint)
    try:
        run.prepare(run_device)
        if saved is not None:
            run.restore(saved)
            saved = None  # its copy of the weights need not stay while the run goes on
        elif state_folder is not None:
            run.save(state_folder)
        if task.classes and count_classes(model) in (None, len(task.classes)):
            set_class_names_(model, task.classes, getattr(task, "codes", ()))
        run.go(state_folder, progress)
    finally:
        run.accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)  # so that the model is as it was given
        model.eval()
        if accelerator is None:
            run.accelerator.free_memory()
    return run.history


def _choose_device(model: Any, name: str | None, accelerator: Any) -> torch.device:
    """Returns where a run trains; raises as `find_device`, or where an accelerator has another device."""
    if accelerator is not None:
        device: torch.device = accelerator.device
        if name is not None and find_device(name).type != device.type:
            raise InvalidInputError(f"The device is {name}, the accelerator's {device}; give one of them.")
        return device
    parameter = next(model.parameters(), None)
    if name is None and parameter is not None and parameter.device.type != "cpu" and find_launched() is None:
        present: torch.device = parameter.device
        return present
    return find_device(name or "auto")


def _choose_precision(precision: str, device: torch.device, accelerator: Any) -> str:
    if accelerator is None:
        return resolve_precision(precision, device)
    if precision not in ("auto", accelerator.mixed_precision):
        raise InvalidInputError(
            f"The options' precision is {precision!r}, the accelerator's mixed_precision {accelerator.mixed_precision!r}; they "
            "must be the same."
        )
    return str(accelerator.mixed_precision)


class _Run:
    """A training run between its steps."""

    def __init__(self, model: Any, task: Task, options: Options, accelerator: Any, report: Any) -> None:
        names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not names or not len(task):
            raise InvalidInputError(
                f"Training needs trainable parameters ({count_of(len(names), 'tensor')}) and clouds ({len(task)}). "
                "`i2p_zoo.finetune.freeze` says what trains."
            )
        if not task.is_monitored and (options.keep == "best" or options.target is not None):
            raise InvalidInputError(f"keep={options.keep!r} and target={options.target} need clouds to `monitor`.")
        self.model, self.task, self.options, self.names = model, task, options, names
        self.accelerator, self.history = accelerator, History()
        self.report = report if report is not None and accelerator.is_main_process else lambda entry: None
        self.part_size, rest = divmod(options.batch_size, accelerator.num_processes * options.accumulate)
        if rest:
            raise InvalidInputError(
                f"A batch_size of {options.batch_size} does not divide evenly among "
                f"{count_of(accelerator.num_processes, 'process')} with accumulate={options.accumulate}."
            )
        self.fingerprint = _hash_run(model, task, names)
        self.wrapped = model
        self.average: Any = None
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0

    def prepare(self, device: torch.device) -> None:
        """Moves the network to where it trains, and makes what trains it."""
        options, model = self.options, self.model.to(device)
        self.device = next(iter(self.names)).device
        optimizer: Any = torch.optim.SGD if options.optimizer == "sgd" else torch.optim.AdamW
        momentum = {"momentum": 0.9, "nesterov": True} if options.optimizer == "sgd" else {}
        groups = _group_parameters(model, list(self.names), options.body_rate)
        self.raw_optimizer = optimizer(groups, lr=options.learning_rate, weight_decay=options.weight_decay, **momentum)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, self.raw_optimizer)
        if options.ema is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)

    def go(self, folder: Path | None, progress: str | None) -> None:
        """Runs the steps that are left."""
        options = self.options
        todo = range(0) if self.has_reached_target() else range(len(self.history.steps), options.steps)
        is_shown = progress is not None and self.accelerator.is_main_process
        bar = tqdm(todo, initial=todo.start, total=options.steps, desc=progress, disable=not (is_shown and options.steps))
        devices = [self.device] if self.device.type == "cuda" else []
        together = synchronize_norms(self.accelerator.num_processes > 1)
        self.model.settings = _settings_after(self.model, self.task)
        # Several processes would stop at different steps, and wait for each other.
        signals = HeldSignals(folder is not None and self.accelerator.num_processes == 1)
        explained = explain_killed_workers(options.workers)
        with torch.random.fork_rng(devices=devices), together, contextlib.closing(bar), signals, explained:
            self.model.train()
            start = time.perf_counter()
            for number, share in zip(bar, self.load_batches(todo), strict=True):
                self.history.waited += time.perf_counter() - start
                loss, top1 = self.update(number, share)
                self.seconds += time.perf_counter() - start
                done = number + 1
                self.note(Step(done, loss, top1, options.learning_rate_at(number), self.seconds))
                bar.set_postfix(loss=f"{loss:.2f}", top1=f"{top1:.2f}")
                is_last = done == options.steps
                if self.task.is_monitored and (is_last or done % (options.evaluate_every or options.steps) == 0):
                    self.evaluate(done)
                if self.has_reached_target():
                    break
                is_due = done % options.save_every == 0 or signals.number is not None
                if folder is not None and not is_last and is_due:
                    self.try_to_save(folder)
                    signals.deliver()
                start = time.perf_counter()
            if folder is not None:
                self.try_to_save(folder)
            signals.deliver()
        if options.keep == "best":
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())

    def load_batches(self, steps: range) -> Iterator[list[VoxelBatch]]:
        """Yields this process's share of each batch in its parts: a part of all processes is a part of one process alone."""
        options, rank = self.options, self.accelerator.process_index
        starts = [(part * self.accelerator.num_processes + rank) * self.part_size for part in range(options.accumulate)]
        gather = partial(self.task.gather, settings=self.model.settings)
        parts = [slice(start, start + self.part_size) for start in starts]
        return prefetch(self.task.batches(options), gather, parts, steps, options.workers, self.device.type == "cuda")

    def update(self, number: int, share: list[VoxelBatch]) -> tuple[float, float]:
        """Does one step; returns the batch's loss and accuracy before it."""
        with explain_memory(lambda: max(len(batch.coords) for batch in share), _LESS_AT_ONCE):
            loss, top1 = self.add_gradients(number, share)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The loss is {loss} at step {number + 1}: the learning rate (={self.options.learning_rate}) is too high "
                    "for this network, or the clouds' features are out of scale."
                )
            for group in self.raw_optimizer.param_groups:
                group["lr"] = self.options.learning_rate_at(number) * group["factor"]
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        return loss, top1

    def add_gradients(self, number: int, share: list[VoxelBatch]) -> tuple[float, float]:
        """Adds up the gradients of a batch's parts; returns its loss and accuracy."""
        options = self.options
        figures = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part, batch in enumerate(share):
            seeds = np.random.SeedSequence((options.seed, number, part, self.accelerator.process_index))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            is_last = part + 1 == options.accumulate
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                with self.accelerator.autocast():
                    loss, top1 = self.task.measure(self.wrapped, batch.to(self.device), options)
                self.accelerator.backward(loss / options.accumulate)
            figures += torch.stack([loss.detach().double(), top1.double()]) / options.accumulate
        loss_value, top1_value = self.accelerator.reduce(figures, reduction="mean").tolist()
        return loss_value, top1_value

    def note(self, entry: Step | Evaluation) -> None:
        """Adds an entry to the history."""
        entries: list[Any] = self.history.steps if isinstance(entry, Step) else self.history.evaluations
        entries.append(entry)
        self.report(entry)

    def evaluate(self, step: int) -> None:
        """Measures the monitored clouds, and keeps the weights where they are the best so far."""
        best = self.history.best()
        judged = self.model if self.average is None else self.average.module
        entry = Evaluation(step, self.task.evaluate(judged, self.accelerator, self.options), self.seconds)
        self.note(entry)
        if self.options.keep == "best" and (best is None or entry.score > best.score):
            self.best = {name: training_state.copy_to_cpu(tensor) for name, tensor in judged.state_dict().items()}

    def has_reached_target(self) -> bool:
        """Whether the last evaluation is good enough to stop."""
        return self.options.target is not None and self.history.reached(self.options.target) is not None

    def try_to_save(self, folder: Path) -> None:
        """Saves the state; a disk that is full costs no more than the state."""
        try:
            self.save(folder)
        except OSError as error:
            step = len(self.history.steps)
            warnings.warn(f"The state after step {step} could not be saved ({error}); the run goes on.", stacklevel=2)

    def save(self, folder: Path) -> None:
        """Saves the state; raises OSError where the folder cannot be written."""
        if not self.accelerator.is_main_process:
            return
        optimizer = training_state.read_optimizer(self.raw_optimizer, self.names)
        tensors = {"model": self.model.state_dict(), "optimizer": optimizer, "best": self.best}
        if self.average is not None:
            tensors["average"] = self.average.state_dict()
        scaler = self.accelerator.scaler
        state = TrainingState(self.history, tensors, {} if scaler is None else {"scaler": scaler.state_dict()})
        training_state.save_training_state(folder, state, self.options, self.fingerprint)

    def restore(self, state: TrainingState) -> None:
        """Goes back to a saved state."""
        self.history, self.best = state.history, state.tensors.get("best", {})
        self.seconds = self.history.seconds
        self.model.load_state_dict(state.tensors["model"])
        training_state.write_optimizer_(self.raw_optimizer, self.names, state.tensors.get("optimizer", {}))
        if self.average is not None:
            self.average.load_state_dict(state.tensors["average"])
        if "scaler" in state.scalars:
            self.accelerator.scaler.load_state_dict(state.scalars["scaler"])


def _group_parameters(model: Any, parameters: list[nn.Parameter], body_rate: float) -> list[dict[str, Any]]:
    """Divides parameters into those of the body, by `body_rate`, and those between which it stands; one group where it is 1."""
    if body_rate == 1.0:
        return [{"params": parameters, "factor": 1.0}]
    outer = {p for part in find_io(model) for p in (part.parameters() if isinstance(part, nn.Module) else [part])}
    groups = {1.0: [p for p in parameters if p in outer], body_rate: [p for p in parameters if p not in outer]}
    return [{"params": members, "factor": factor} for factor, members in groups.items() if members]


def _hash_run(model: Any, task: Task, names: dict[nn.Parameter, str]) -> str:
    """Hashes what a saved state must find again: the structure, what trains, and the task's clouds."""
    digest = hashlib.sha256(task.fingerprint())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    digest.update(
        "\n".join(sorted(names.values())).encode() + repr((_settings_after(model, task), model.frozen_norms)).encode()
    )
    return digest.hexdigest()


def _settings_after(model: Any, task: Task) -> Any:
    """Returns a network's settings with a note of how the clouds are normalised that it trains on."""
    return model.settings.changed(normalization=getattr(task, "normalization", ""))
