"""Batches as a process trains on them: its share, in parts, voxelized, by other processes ahead of time if there are any."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from i2p_zoo.data.batches import VoxelBatch
from i2p_zoo.errors import I2PError, InvalidInputError, WorkerError
from i2p_zoo.finetune.held_signals import ignore_interrupts
from i2p_zoo.wording import count_of


class Batches(Protocol):
    """Batches by their number, the same in every process."""

    def draw(self, step: int, part: slice) -> list[Any]:
        """Returns some samples of a batch."""


class _VoxelizedShares(torch.utils.data.Dataset[list[VoxelBatch] | Exception]):
    """A process's share of a batch by its number, or the error that it met: a loader would add its traceback to the message."""

    def __init__(self, batches: Batches, gather: Callable[[list[Any]], VoxelBatch], parts: list[slice]) -> None:
        self.batches, self.gather, self.parts = batches, gather, parts

    def __getitem__(self, step: int) -> list[VoxelBatch] | Exception:
        try:
            return [self.gather(self.batches.draw(step, part)) for part in self.parts]
        except (I2PError, OSError) as error:
            return error


def prefetch(
    batches: Batches,
    gather: Callable[[list[Any]], VoxelBatch],
    parts: list[slice],
    steps: range,
    workers: int,
    is_pinned: bool,
) -> Iterator[list[VoxelBatch]]:
    """Yields a process's share of each batch, in parts.

    Args:
        batches: the samples, by the number of a batch; pickled for the workers.
        gather: voxelizes some samples; pickled too, so no bound method of what holds the data.
        parts: the places in a batch of each part of the share.
        steps: the numbers of the batches.
        workers: processes that draw and voxelize, two batches ahead each; 0 for this one.
        is_pinned: whether tensors stand in page-locked memory, from which a GPU copies while the processor goes on.

    Raises:
        InvalidInputError: what cannot be pickled for the workers.
        WorkerError: a worker was killed.
        I2PError, OSError: as the samples and their voxelizing, in a worker too.
    """
    loader = torch.utils.data.DataLoader(
        _VoxelizedShares(batches, gather, parts),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_keep,
        pin_memory=is_pinned,
        multiprocessing_context="spawn" if workers else None,  # a fork would hang in OpenMP
        worker_init_fn=ignore_interrupts,
    )
    try:
        shares = iter(loader)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InvalidInputError(
            f"The batches cannot be sent to {count_of(workers, 'worker')} ({error}): take workers=0, or functions of a module "
            "in place of lambdas and of functions in others."
        ) from error
    with explain_killed_workers(workers):
        while True:
            try:
                share = next(shares, None)
            except (OSError, EOFError) as error:  # what a worker sent is fetched from it
                time.sleep(1)  # in which torch raises, as the signal of its end arrives, and says more
                raise WorkerError(_describe_killed_worker(workers, error)) from error
            if share is None:
                return
            if isinstance(share, Exception):
                raise share
            yield share


@contextmanager
def explain_killed_workers(workers: int) -> Iterator[None]:
    """Says what to do where one of so many workers was killed, which torch raises in the midst of whatever runs then.

    Raises:
        WorkerError: in place of torch's error, which is its cause.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise WorkerError(_describe_killed_worker(workers, error)) from error


def _describe_killed_worker(workers: int, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
    return (
        f"One of {count_of(workers, 'worker')} ended before its work was done ({reason}). Where it could not "
        "start, let your program do its work below `if __name__ == '__main__':`, since each worker reads it again. If memory "
        "did not suffice, take fewer workers or smaller batches; in a container, whose shared memory (/dev/shm) is small, give "
        "it more, as by `docker run --shm-size=4g`."
    )


def _keep(share: Any) -> Any:
    return share
