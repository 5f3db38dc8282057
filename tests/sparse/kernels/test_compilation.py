"""Compiled kernels on disk: several processes and threads at once, and folders that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from filelock import FileLock
from numba.core import caching

from i2p_zoo.sparse.kernels import compilation
from i2p_zoo.sparse.kernels.compilation import compiled

MODULE = """
from i2p_zoo.sparse.kernels.compilation import compiled

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


def _start(folder: Path, code: str, *args: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[3])])
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


def test_where_no_folder_can_be_written_kernels_are_compiled_and_one_warning_says_what_to_do(monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")

        @compiled
        def triple(values):
            return values * 3

        @compiled
        def quadruple(values):
            return values * 4

    assert (triple(2), quadruple(2)) == (6, 8)
    assert ["NUMBA_CACHE_DIR" in str(warning.message) for warning in said] == [True]


def test_kernels_can_be_imported_where_numba_compiles_nothing():
    code = "from i2p_zoo.sparse.kernels.sites import find_lines; print(type(find_lines).__name__)"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.returncode) == ("function\n", 0), run.stderr


@pytest.fixture
def can_lock(monkeypatch):
    """Each test finds files that can be locked, and leaves them so."""
    monkeypatch.setattr(compilation, "_can_lock", True)


def test_a_process_that_was_stopped_keeps_no_other_waiting_for_ever(can_lock, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_TIMEOUT", 0.1)
    with (
        FileLock(tmp_path / "lock"),
        pytest.warns(UserWarning, match="cannot be locked"),
        compilation._locked(tmp_path / "lock"),
    ):
        pass
    with compilation._locked(tmp_path / "another"):  # nor does it wait a second time
        FileLock(tmp_path / "another").acquire(timeout=0)


@pytest.mark.parametrize(
    "error", [PermissionError("read-only"), OSError(37, "No locks available"), NotImplementedError("flock")]
)
def test_kernels_are_compiled_where_files_cannot_be_locked(can_lock, error, monkeypatch):
    def refuse(self):
        raise error

    monkeypatch.setattr(compilation.FileLock, "acquire", refuse)

    @compiled
    def quintuple(values):
        return values * 5

    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        assert quintuple(2) == 10


def test_an_error_leaves_the_lock_free(can_lock, tmp_path):
    with pytest.raises(ValueError, match="spoiled") as kept, compilation._locked(tmp_path / "lock"):
        raise ValueError("spoiled")
    FileLock(tmp_path / "lock").acquire(timeout=0)
    assert kept
