"""Accelerate: one process or many, on a CPU or GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune.evaluation import Accuracy, count_accuracy, predict_logits


def make_accelerator(precision: str = "no", place: bool = False) -> Any:
    """Returns an `accelerate.Accelerator` of this process, as `accelerate launch` or torchrun set it up.

    Args:
        precision: "no" leaves it to `accelerate launch`.
        place: whether networks move to the process's device when training begins.

    Raises:
        InvalidInputError: "fp16" without a GPU.
        MissingExtraError: accelerate is not installed.
    """
    accelerate = require("accelerate", "finetune")
    chosen = None if precision == "no" else precision
    state = accelerate.state.AcceleratorState
    if state._shared_state and state().mixed_precision != (chosen or "no"):
        state._reset_state()  # the precision of an earlier run in this process
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = accelerate.Accelerator(device_placement=place, mixed_precision=chosen, kwargs_handlers=[unused])
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # where Accelerate passes over it
        raise InvalidInputError("precision='fp16' needs a GPU; on a CPU there is 'bf16'.")
    return accelerator


def share_of(batch_size: int, processes: int, accumulate: int) -> int:
    """Returns how many clouds of a batch each process has in one part; raises InvalidInputError where they do not divide."""
    share, rest = divmod(batch_size, processes * accumulate)
    if rest:
        raise InvalidInputError(
            f"A batch_size of {batch_size} does not divide evenly among {processes} processes with accumulate={accumulate}."
        )
    return share


def evaluate_together(model: Any, clouds: CloudSet, accelerator: Any, batch_size: int = 64) -> Accuracy:
    """Measures accuracy as `evaluate` does, each process on its share of the clouds; every process gets the whole."""
    if not len(clouds):
        raise InvalidInputError("Accuracy needs clouds; the set is empty.")
    rank, count = accelerator.process_index, accelerator.num_processes
    rows = np.arange(rank, len(clouds), count)
    shares: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    if len(rows):
        shares.append((rows, predict_logits(model, clouds.subset(rows), batch_size).argmax(1).numpy()))
    gathered = require("accelerate.utils", "finetune").gather_object(shares) if count > 1 else shares
    predictions = np.empty(len(clouds), np.int64)
    for numbers, classes in gathered:
        predictions[numbers] = classes
    return count_accuracy(predictions, clouds)
