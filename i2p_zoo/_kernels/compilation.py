"""Compiles kernels on first use, by one process at a time, and keeps them on disk.

numba numbers the code that it keeps of a function by an index which it reads beforehand. Processes that do so at once, with
arguments of other types, give theirs the same number, and a kernel is then called with the other's code: a TypeError, now or
in every later process (`numba.core.caching.IndexDataCacheFile.save`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from pathlib import Path

import numba
from filelock import FileLock

_TIMEOUT = 120  # seconds, more than any kernel takes to compile
_mutex = threading.RLock()  # taken before a file's: numba has a lock of its own, and two threads might each wait for the other


def compiled(function=None, **options):
    """Decorates a kernel: compiled by `numba.njit` on first use, without the interpreter's lock, and kept on disk.

    Args:
        function: the kernel.
        **options: more of `numba.njit`.
    """
    if function is None:
        return functools.partial(compiled, **options)
    try:
        dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        warnings.warn(
            "Compiled kernels cannot be kept: neither i2p_zoo's folder nor the user's cache can be written. Every process will "
            "compile its own, which takes a minute. Set NUMBA_CACHE_DIR to a folder that can be written.",
            stacklevel=2,
        )
        return numba.njit(nogil=True, **options)(function)
    path = Path(dispatcher.stats.cache_path) / f"{function.__module__}.{function.__qualname__}.lock"
    compile_signature = dispatcher.compile

    def compile_alone(signature):
        with _mutex, _locked(path):
            return compile_signature(signature)

    dispatcher.compile = compile_alone
    return dispatcher


@contextlib.contextmanager
def _locked(path):
    """Locks a file against other processes."""
    lock = FileLock(path, timeout=_TIMEOUT)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):  # nothing can be written there, or a process was stopped while it compiled
        yield
        return
    try:
        yield
    finally:
        lock.release()
