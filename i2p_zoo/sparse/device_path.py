"""Which of two ways a tensor's work goes: numba's on the CPU, or the device's, of torch operations and Triton kernels."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_forced: ContextVar[bool] = ContextVar("device_path", default=False)


def takes_device_path(tensor: Tensor) -> bool:
    """Whether a tensor's work is a device's: few launches, nothing that waits for it, no numba kernel."""
    return tensor.device.type != "cpu" or _forced.get()


def runs_triton(tensor: Tensor) -> bool:
    """Whether Triton's kernels take a tensor: on CUDA, where Triton is installed, as it is beside torch on Linux."""
    return (tensor.is_cuda or _forced.get()) and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@contextmanager
def force_device_path() -> Iterator[None]:
    """Sends the work of CPU tensors the device's way within a `with` block, so that it can be checked without a GPU.

    Triton's kernels run there only in its interpreter: TRITON_INTERPRET=1, set before Triton is imported.
    """
    token = _forced.set(True)
    try:
        yield
    finally:
        _forced.reset(token)
