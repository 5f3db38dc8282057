"""Runs a GIL-free kernel over chunks of rows on as many threads as torch uses.

numba's own parallel layers either abort when two Python threads use them at once (workqueue) or when a process that used
them forks (GNU OpenMP), and a data loader does both. A plain thread pool does neither.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch

_MINIMUM_ROWS = 256
_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _forget_pools() -> None:
    global _pools_lock
    _pools_lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


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
    """Calls `kernel(chunk, start, stop, *args)` for each chunk and waits for all of them.

    Args:
        kernel: a function that releases the GIL, writes only rows of its own chunk, and does not call `run_chunks` itself.
        bounds: the chunks, from `chunk_bounds`.
        *args: passed on to every call.
    """
    if len(bounds) == 1:
        kernel(0, *bounds[0], *args)
        return
    pool = _pool(len(bounds) - 1)
    futures = [pool.submit(kernel, chunk, start, stop, *args) for chunk, (start, stop) in enumerate(bounds[1:], start=1)]
    try:
        kernel(0, *bounds[0], *args)
    finally:
        wait(futures)
    for future in futures:
        future.result()
