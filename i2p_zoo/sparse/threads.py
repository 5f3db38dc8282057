"""Runs a GIL-free kernel over chunks of rows on torch's own threads.

torch's OpenMP threads spin for milliseconds after each of its operations, waiting for the next. Other threads than those
would share the cores with them and be several times slower, so kernels are handed to the same team. numba's own parallel
layers would bring other threads; besides, they abort when two Python threads use them at once (workqueue) or when a process
that used them forks (GNU OpenMP), and a data loader does both.

Where torch has no GNU OpenMP (macOS, Windows) or the process is a fork, whose copy of the team is dead, a plain thread pool
runs the chunks.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_MINIMUM_ROWS = 256
_TEAM_FUNCTIONS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
_ALONE = np.zeros(len(_TEAM_FUNCTIONS), np.int64)
_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()
_is_fork = False


def _forget_threads() -> None:
    global _pools_lock, _is_fork
    _is_fork = True
    _pools_lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _pool(workers: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="i2p-zoo")
        return _pools[workers]


def chunk_bounds(rows: int, minimum: int = _MINIMUM_ROWS) -> list[tuple[int, int]]:
    """Splits `rows` rows into one contiguous chunk a thread.

    Args:
        rows: number of rows of work.
        minimum: fewest rows worth a thread of their own.

    Returns:
        (start, stop) of each chunk; the split depends only on `rows`, `minimum` and `torch.get_num_threads()`, so that
        sums over chunks are reproducible.
    """
    chunks = max(1, min(torch.get_num_threads(), rows // minimum))
    edges = [rows * i // chunks for i in range(chunks + 1)]
    return list(itertools.pairwise(edges))


def run_chunks(kernel: Callable[..., Any], bounds: list[tuple[int, int]], *args: Any) -> None:
    """Calls a kernel for each chunk and waits for all of them.

    Args:
        kernel: kernel(team, chunks, *args), a jitted function that gives them to `run_team`; what it runs for a chunk writes
            nothing that another chunk reads, and nothing that another writes but the same values.
        bounds: the chunks, from `chunk_bounds`.
        *args: passed on to every call; tensors, on the CPU and detached, as the arrays that share their memory.

    Raises:
        MemoryError: a chunk failed; all others are done then.
    """
    args = tuple([arg.numpy() if isinstance(arg, torch.Tensor) else arg for arg in args])
    chunks = np.array([(number, *bound) for number, bound in enumerate(bounds)], dtype=np.int64)
    team = _ALONE if _is_fork or len(bounds) == 1 else _find_team()
    if len(bounds) == 1 or team is not _ALONE:
        kernel(team, chunks, *args)
        return
    pool = _pool(len(bounds) - 1)
    futures = [pool.submit(kernel, _ALONE, chunks[number : number + 1], *args) for number in range(1, len(bounds))]
    try:
        kernel(_ALONE, chunks[:1], *args)
    finally:
        wait(futures)
    for future in futures:
        future.result()


@functools.cache
def _find_team() -> NDArray[np.int64]:
    """What `run_team` needs of the GNU OpenMP library that torch has loaded; zeros where it has none."""
    folder = Path(torch.__file__).parent
    for path in sorted([*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            functions = [getattr(library, name) for name in _TEAM_FUNCTIONS]
        except (OSError, AttributeError):
            continue
        return np.array([ctypes.cast(function, ctypes.c_void_p).value for function in functions], dtype=np.int64)
    return _ALONE
