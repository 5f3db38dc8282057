"""Times calls on a device, their waits and their memory, in a precision."""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

PRECISIONS = {"bf16": (True, torch.bfloat16), "tf32": (True, None), "fp32": (False, None)}  # TF32, and autocast's dtype


class Clock:
    """Measures calls on a device; on the CPU waits and memory are unknown.

    Args:
        device: where calls run.
        rounds: the most that are timed.
        budget: seconds after which no round begins, but three are run in any case.
    """

    def __init__(self, device: torch.device, rounds: int = 15, budget: float = 2.0) -> None:
        self.device, self.rounds, self.budget = device, rounds, budget

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Waits for what the device was asked."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def time_once(self, run: Callable[[], Any]) -> float:
        """Returns the milliseconds of one call, its end waited for."""
        self.wait()
        begin = time.perf_counter()
        run()
        self.wait()
        return 1e3 * (time.perf_counter() - begin)

    def time(self, run: Callable[[], Any]) -> float:
        """Returns the median of a call's milliseconds."""
        run()
        times: list[float] = []
        stop = time.perf_counter() + self.budget
        while len(times) < self.rounds and (len(times) < 3 or time.perf_counter() < stop):
            times.append(self.time_once(run))
        return statistics.median(times)

    def count_waits(self, run: Callable[[], Any]) -> int | None:
        """Returns how often a call waits for the GPU, as torch's debug mode tells."""
        if not self.on_gpu:
            return None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message).lower() for warning in caught)

    def find_peak_memory(self, run: Callable[[], Any]) -> float | None:
        """Returns the most MiB that are allocated during a call, what stood there before included."""
        if not self.on_gpu:
            return None
        torch.cuda.reset_peak_memory_stats()
        run()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**20


@contextlib.contextmanager
def set_precision(name: str, device: torch.device) -> Iterator[None]:
    """Computes in a precision inside the block: bf16 by autocast, tf32 and fp32 by torch's switches."""
    with set_tf32(PRECISIONS[name][0]), autocast(name, device):
        yield


def autocast(name: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Returns a precision's autocast, or a block that changes nothing."""
    dtype = PRECISIONS[name][1]
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def set_tf32(allowed: bool) -> Iterator[None]:
    """Sets torch's switches for products of float32 on CUDA inside the block, and TF32 off behind it."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend in backends:
            backend.allow_tf32 = False


def measure_peaks(clock: Clock, size: int) -> list[tuple[str, str]]:
    """Returns what the device itself can: bandwidth, products of matrices, and the cost of a launch and of a wait.

    Args:
        clock: measures.
        size: rows of the square matrices.
    """
    source, target = (torch.empty(16 * size, size, device=clock.device) for _ in range(2))
    peaks = [("copy", f"{2 * source.nbytes / clock.time(lambda: target.copy_(source)) / 1e6:.0f} GB/s")]
    for name, (tf32, dtype) in PRECISIONS.items():
        left, right = (torch.randn(size, size, device=clock.device, dtype=dtype or torch.float32) for _ in range(2))
        with set_tf32(tf32):
            milliseconds = clock.time(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        peaks.append((f"product, {name}", f"{2 * size**3 / milliseconds / 1e9:.1f} TFLOP/s"))
    value = torch.zeros(8, device=clock.device)
    launches = clock.time(lambda: [value.add_(1) for _ in range(1000)])
    waits = clock.time(lambda: [value[0].item() for _ in range(100)])
    return [*peaks, ("launch", f"{launches:.1f} us"), ("launch and wait", f"{10 * waits:.1f} us")]
