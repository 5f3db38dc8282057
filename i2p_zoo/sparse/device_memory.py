"""A device's memory that does not suffice: an error that says for how many voxels, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from i2p_zoo.errors import I2PError
from i2p_zoo.wording import count_of

SMALLER_BATCH = "Take a smaller batch_size, or a larger voxel size."


class DeviceMemoryError(I2PError, torch.OutOfMemoryError):
    """A device's memory does not suffice for a batch; also what torch raises, so that who catches that goes on."""


@contextmanager
def explain_memory(count_voxels: Callable[[], int], remedy: str) -> Iterator[None]:
    """Says of how many voxels a batch is for which a device's memory does not suffice.

    Args:
        count_voxels: tells the number of voxels; asked only then.
        remedy: what to do, as a sentence.

    Raises:
        DeviceMemoryError: in place of torch's error, which is its cause.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        if isinstance(error, DeviceMemoryError):
            raise
        voxels = count_of(count_voxels(), "voxel")
        raise DeviceMemoryError(f"The device's memory does not suffice for {voxels} at once. {remedy} ({error})") from error
