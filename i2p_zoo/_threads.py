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

import torch

_MINIMUM_ROWS = 256
_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


_TEAM_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_is_fork = False
_jobs: dict[int, Any] = {}  # what a team is at: one function serves all, since making one for C takes longer than small layers
_numbers = itertools.count(1)


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
    """Calls `kernel(chunk, start, stop, *args)` for each chunk and waits for all of them.

    Args:
        kernel: a function that releases the GIL, writes only rows of its own chunk, and does not call `run_chunks` itself.
        bounds: the chunks, from `chunk_bounds`.
        *args: passed on to every call.
    """
    if len(bounds) == 1:
        kernel(0, *bounds[0], *args)
    elif (openmp := None if _is_fork else _find_openmp()) is not None:
        _run_on_team(openmp, kernel, bounds, args)
    else:
        _run_on_pool(kernel, bounds, args)


@functools.cache
def _find_openmp() -> Any:
    """The GNU OpenMP library that torch has loaded, or None."""
    folder = Path(torch.__file__).parent
    for path in sorted([*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            library.GOMP_parallel.argtypes = (_TEAM_CALL, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


def _work(number: int) -> None:
    openmp, kernel, bounds, args, errors = _jobs[number]
    for chunk in range(openmp.omp_get_thread_num(), len(bounds), openmp.omp_get_num_threads()):
        try:
            kernel(chunk, *bounds[chunk], *args)
        except BaseException as error:  # must not leave a call from C
            errors.append(error)


_work_on_team = _TEAM_CALL(_work)


def _run_on_team(openmp: Any, kernel: Callable[..., Any], bounds: list[tuple[int, int]], args: tuple[Any, ...]) -> None:
    errors: list[BaseException] = []
    number = next(_numbers)
    _jobs[number] = (openmp, kernel, bounds, args, errors)
    try:
        openmp.GOMP_parallel(_work_on_team, number, len(bounds), 0)
    finally:
        del _jobs[number]
    if errors:
        raise errors[0]


def _run_on_pool(kernel: Callable[..., Any], bounds: list[tuple[int, int]], args: tuple[Any, ...]) -> None:
    pool = _pool(len(bounds) - 1)
    futures = [pool.submit(kernel, chunk, start, stop, *args) for chunk, (start, stop) in enumerate(bounds[1:], start=1)]
    try:
        kernel(0, *bounds[0], *args)
    finally:
        wait(futures)
    for future in futures:
        future.result()
