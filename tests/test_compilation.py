"""Compiled kernels on disk: several processes and threads at once, and folders that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from numba.core import caching
from numba.core.errors import TypingError

from i2p_zoo._kernels import compilation
from i2p_zoo._kernels.compilation import compiled

MODULE = """
from i2p_zoo._kernels.compilation import compiled

@compiled
def double(values):
    for i in range(values.size):
        values[i] *= 2
"""
# Both have read the index before either writes it, and the slower one's code is written last, unless one waits for the other.
COMPILE = """
import sys, time
import numpy as np
from numba.core import caching

def delay(name, seconds):
    original = getattr(caching.IndexDataCacheFile, name)
    def delayed(self, *args):
        time.sleep(seconds)
        return original(self, *args)
    setattr(caching.IndexDataCacheFile, name, delayed)

delay("_save_index", 1)
delay("_save_data", float(sys.argv[2]))
from kernels_of_test import double
print("ready", flush=True)
input()
values = np.ones(3, sys.argv[1])
double(values)
assert (values == 2).all(), values
"""
LOAD = """
import numpy as np
from kernels_of_test import double
for kind in ("float32", "float64"):
    values = np.ones(3, kind)
    double(values)
    assert (values == 2).all(), values
assert sum(double.stats.cache_hits.values()) == 2, double.stats
"""
CALLING = """
from i2p_zoo._kernels.compilation import compiled

@compiled
def inner(value):
    return value + 1

@compiled
def outer(value):
    return inner(value) * 2
"""
# `inner`'s lock is taken, and its compilation begun, while `outer`'s is under way and has not yet come to `inner`.
COMPILE_IN_THREADS = """
import faulthandler, threading, time
from i2p_zoo._kernels import compilation

faulthandler.dump_traceback_later(60, exit=True)
acquire = compilation.FileLock.acquire
def acquire_slowly(self):
    acquire(self)
    time.sleep(1)
compilation.FileLock.acquire = acquire_slowly
from kernels_of_test import inner, outer
threads = [threading.Thread(target=kernel, args=(1.0,)) for kernel in (outer, inner)]
for thread in threads:
    thread.start()
    time.sleep(0.5)
for thread in threads:
    thread.join()
assert (inner(1.0), outer(1.0)) == (2, 4)
"""


def _start(folder: Path, code: str, *args: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-c", code, *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def _succeed(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_two_processes_that_compile_at_once_leave_each_its_own_code(tmp_path):
    (tmp_path / "kernels_of_test.py").write_text(MODULE)
    processes = [_start(tmp_path, COMPILE, "float32", "1"), _start(tmp_path, COMPILE, "float64", "0")]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _succeed(process)
    _succeed(_start(tmp_path, LOAD))


def test_options_reach_numba_and_code_is_kept_where_numba_keeps_it():
    @compiled(inline="always")
    def triple(values):
        return values * 3

    assert triple.targetoptions["inline"] == "always"
    assert triple.targetoptions["nogil"]
    assert triple(2) == 6
    assert list(Path(triple.stats.cache_path).glob("*triple*.nbi"))


def test_where_no_folder_can_be_written_kernels_are_compiled_and_a_warning_says_what_to_do(monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):

        @compiled
        def triple(values):
            return values * 3

    assert triple(2) == 6


def test_a_process_that_was_stopped_while_it_compiled_keeps_no_other_waiting_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_TIMEOUT", 0.1)
    with FileLock(tmp_path / "lock"), compilation._locked(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_taken_hinders_nothing(monkeypatch):
    def refuse(self):
        raise PermissionError("read-only")

    monkeypatch.setattr(compilation.FileLock, "acquire", refuse)

    @compiled
    def quintuple(values):
        return values * 5

    assert quintuple(2) == 10


def test_threads_that_compile_kernels_which_call_each_other_do_not_wait_for_one_another(tmp_path):
    (tmp_path / "kernels_of_test.py").write_text(CALLING)
    _succeed(_start(tmp_path, COMPILE_IN_THREADS))


def test_a_failed_compilation_leaves_the_lock_free():
    @compiled
    def fail(values):
        return values.no_such_attribute

    for _ in range(2):
        with pytest.raises(TypingError):
            fail(1)
