"""Where and in which precision networks run: this process's device, as a user or `accelerate launch` chooses it."""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.wording import join_words


def find_device(name: str = "auto") -> torch.device:
    """Returns the device that a word names.

    Args:
        name: "cpu"; "cuda", the GPU that torch takes first, or "cuda:1" and so on; "auto", the device that `accelerate launch`
            or torchrun gave this process, else the GPU, where torch can use one, else the CPU.

    Raises:
        InvalidInputError: another word, a device that is not here, or another one than this process was given.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    launched = find_launched()
    if name == "auto":
        return launched or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(name, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InvalidInputError(f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:0' and so on; got {name!r}.")
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and not (device.index or 0) < count:
        present = ["cpu", *(f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(count))]
        why = "" if count else f" This torch ({torch.__version__}) {_explain_no_gpu()}."
        raise InvalidInputError(f"There is no device {name}: torch has {join_words(present)}.{why}")
    if launched is not None and (device.type != launched.type or device.index not in (None, launched.index)):
        raise InvalidInputError(
            f"The device {name} contradicts `accelerate launch`, which gave this process {launched}. Leave the device out, and "
            "say it there: `--cpu`, `--num_processes` and `--gpu_ids`."
        )
    return launched or device


def find_launched() -> torch.device | None:
    """Returns the device that `accelerate launch` or torchrun chose, as Accelerate reads it; None where neither did."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on"):
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK", "")
    if not rank.isdigit():
        return None
    return torch.device("cuda", int(rank) % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")


def _explain_no_gpu() -> str:
    built = torch.version.cuda or torch.version.hip
    return f"is built for {'CUDA' if torch.version.cuda else 'ROCm'} {built} and finds no GPU" if built else "is built for CPUs"


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns the precision that a run on a device has.

    Args:
        precision: "auto" is what `accelerate launch` was told, but "no", which it also says where it was told nothing; else
            "bf16" on a GPU that computes in it, as NVIDIA's do since Ampere, and "no" elsewhere. Others stay as they are.
        device: of the run.

    Example:
        >>> resolve_precision("auto", torch.device("cpu")), resolve_precision("bf16", torch.device("cpu"))
        ('no', 'bf16')
    """
    if precision != "auto":
        return precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched != "no" or device.type != "cuda":
        return launched
    with torch.cuda.device(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def make_accelerator(precision: str, device: torch.device) -> Any:
    """Returns an `accelerate.Accelerator` of this process that moves no network, as `accelerate launch` or torchrun set it up.

    Args:
        precision: "no", "bf16" or "fp16".
        device: as `find_device`.

    Raises:
        InvalidInputError: "fp16" without a GPU.
        MissingExtraError: accelerate is not installed.
    """
    states = require("accelerate.state", "finetune")
    if precision == "fp16" and device.type == "cpu":  # where Accelerate passes over it
        raise InvalidInputError("precision='fp16' needs a GPU; on a CPU there is 'bf16'.")
    _forget_earlier_run(states, precision, device)
    accelerate = require("accelerate", "finetune")
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(
        cpu=device.type == "cpu", device_placement=False, mixed_precision=precision, kwargs_handlers=[unused]
    )


def _forget_earlier_run(states: Any, precision: str, device: torch.device) -> None:
    """Accelerate keeps device and precision for a whole process; a run that went before may have had others."""
    partial, whole = states.PartialState, states.AcceleratorState
    if partial._shared_state and partial().device.type != device.type and partial().num_processes == 1:
        whole._reset_state(reset_partial_state=True)
    elif whole._shared_state and whole().mixed_precision != precision:
        whole._reset_state()
