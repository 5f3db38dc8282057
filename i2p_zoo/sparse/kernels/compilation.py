"""Compiles kernels on first use and keeps them on disk, where one process at a time reads or writes them.

numba numbers the code that it keeps of a function by an index which it has read before. Of processes that do so at once, for
arguments of other types, two may take the same number, and a kernel is then called with the other's code: a TypeError, now or
in every later process (`numba.core.caching.IndexDataCacheFile.save`).
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from pathlib import Path

import numba
from filelock import FileLock

_TIMEOUT = 10  # seconds, where reading or writing takes some milliseconds
_can_lock = True


def compiled(function=None, **options):
    """Decorates a kernel: compiled by `numba.njit` on first use, without the interpreter's lock, and kept on disk.

    Args:
        function: the kernel.
        **options: more of `numba.njit`.

    Returns:
        numba's dispatcher; without arguments to decorate, the decorator.
    """
    if function is None:
        return functools.partial(compiled, **options)
    try:
        dispatcher = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        warnings.warn(
            "Compiled kernels cannot be kept: neither i2p_zoo's folder nor the user's cache can be written. Every process will "
            "compile its own, which takes a minute. Set NUMBA_CACHE_DIR to a folder that can be written.",
            stacklevel=1,  # one place for all kernels, so that it is said once
        )
        return numba.njit(nogil=True, **options)(function)
    cache = getattr(dispatcher, "_cache", None)
    if cache is not None:  # None with NUMBA_DISABLE_JIT, which leaves the function as it is
        path = Path(cache.cache_path) / f"{function.__module__}.{function.__name__}-{function.__code__.co_firstlineno}.lock"
        cache.load_overload = _alone(cache.load_overload, path)
        cache.save_overload = _alone(cache.save_overload, path)
    return dispatcher


def _alone(operate, path):
    """A function that locks a file against other processes while it runs another."""

    @functools.wraps(operate)
    def operate_alone(*args):
        with _locked(path):
            return operate(*args)

    return operate_alone


@contextlib.contextmanager
def _locked(path):
    """Keeps other processes from the same block; where the file cannot be locked, it warns once and locks no more."""
    global _can_lock
    lock = FileLock(path, timeout=_TIMEOUT)
    if _can_lock:
        try:
            lock.acquire()
        except (OSError, NotImplementedError) as error:  # a file system without locks, or a process that was stopped
            _can_lock = False
            warnings.warn(
                f"{path} cannot be locked ({error}). Processes that compile kernels at once may spoil each other's: set "
                "NUMBA_CACHE_DIR to a local folder.",
                stacklevel=1,
            )
    try:
        yield
    finally:
        lock.release()
