"""The state of a training run on disk, from which it goes on as if it had never stopped. It changes as a whole."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.finetune.history import History
from i2p_zoo.finetune.options import Options
from i2p_zoo.staging import locate, staged_folder

STATE, TENSORS = "training.json", "training.safetensors"
FREE = {"workers", "save_every"}
"""Options that may differ between a run that was saved and one that goes on, since no step depends on them."""


@dataclass
class TrainingState:
    """A run between two steps.

    Attributes:
        history: so far; its length is the number of steps done.
        tensors: by kind ("model", "best", "average", "optimizer") and name.
        scalars: further numbers, such as the loss scale of fp16.
    """

    history: History = field(default_factory=History)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    scalars: dict[str, Any] = field(default_factory=dict)


def save_training_state(folder: Path, state: TrainingState, options: Options, run: str) -> None:
    """Writes a state, replacing the one that is there.

    Args:
        folder: created if missing.
        state: what to write.
        options: of the run.
        run: what else must be the same when the run goes on, as a hash.

    Raises:
        OSError: the folder cannot be written; the old state is still there.
    """
    flat = {f"{part}/{name}": copy_to_cpu(tensor) for part, named in state.tensors.items() for name, tensor in named.items()}
    described = {"run": run, "options": options.to_dict(), "scalars": state.scalars, "history": state.history.to_dict()}
    with staged_folder(folder, lambda path: False) as stage:
        try:
            save_file(flat, str(stage / TENSORS))
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{folder / TENSORS}: {error}") from error
        (stage / STATE).write_text(json.dumps(described) + "\n", encoding="utf-8", newline="\n")


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """Returns a contiguous copy on the CPU that shares no memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def count_steps(folder: Path) -> int:
    """Returns how many steps the state of a run in a folder has done; 0 where there is none, or nothing was trained yet.

    Raises:
        CheckpointError: the state is damaged.
    """
    path = locate(folder, STATE)
    if not path.is_file():
        return 0
    with _readable(folder):
        return len(json.loads(path.read_text(encoding="utf-8"))["history"]["steps"])


def load_training_state(folder: Path, options: Options, run: str) -> TrainingState:
    """Reads the state of a run that is to go on.

    Raises:
        InvalidInputError: the run was another: other options, network or clouds.
        CheckpointError: a file is missing or damaged.
    """
    with _readable(folder):
        described = json.loads(locate(folder, STATE).read_text(encoding="utf-8"))
        # Copies: Windows lets no file be written over of which any tensor is still a part.
        flat = {key: tensor.clone() for key, tensor in load_file(locate(folder, TENSORS)).items()}
        saved, history = described["options"], History.from_dict(described["history"])
        same = described["run"] == run
        scalars = described["scalars"]
    changed = {k: (saved.get(k), v) for k, v in options.to_dict().items() if k not in FREE and saved.get(k, v) != v}
    if changed or not same:
        what = ", ".join(f"{k} was {old!r} and is {new!r}" for k, (old, new) in changed.items()) or "network or clouds differ"
        raise InvalidInputError(f"{folder} holds the state of another run: {what}. Go on as it began, or use another folder.")
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        part, _, name = key.partition("/")
        tensors.setdefault(part, {})[name] = tensor
    return TrainingState(history, tensors, scalars)


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns what reading a damaged state raises into a CheckpointError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no readable state of a training run ({error}).") from error


def read_optimizer(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Returns an optimizer's tensors by "name of the parameter/name of the tensor"."""
    tensors = {}
    for parameter, name in names.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
    return tensors


def write_optimizer_(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]) -> None:
    """Undoes `read_optimizer`, in place."""
    for parameter, name in names.items():
        state = {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
        for key, tensor in state.items():
            device = "cpu" if key == "step" else parameter.device  # where AdamW keeps its count
            optimizer.state[parameter][key] = tensor.to(device)
