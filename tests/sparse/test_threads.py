"""Chunks of rows on threads: what is run, by several threads at once, with errors, and after a fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse import threads as _threads
from i2p_zoo.sparse.kernel_maps import KernelMap
from i2p_zoo.sparse.kernels.depthwise_numba import depthwise_forward
from i2p_zoo.sparse.kernels.team import run_team
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks
from tests.helpers import property_test

TEAM = _threads._find_team()


@pytest.fixture(params=["team", "pool"], autouse=True)
def threads_of(request, monkeypatch):
    """Each test runs on torch's OpenMP team, where there is one, and on a plain thread pool."""
    if request.param == "pool":
        monkeypatch.setattr(_threads, "_find_team", lambda: _threads._ALONE)
    elif TEAM is _threads._ALONE:
        pytest.skip("torch has no GNU OpenMP here")


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@given(rows=st.integers(0, 5000), minimum=st.integers(1, 600), threads=st.integers(1, 5))
@property_test
def test_chunks_cover_every_row_once_in_order(torch_threads, rows, minimum, threads):
    torch_threads(threads)
    bounds = chunk_bounds(rows, minimum)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert 1 <= len(bounds) <= threads
    assert len(bounds) == 1 or all(stop - start >= minimum for start, stop in bounds)
    assert chunk_bounds(rows, minimum) == bounds


def test_there_are_as_many_chunks_as_threads_where_there_is_work_enough(torch_threads):
    torch_threads(3)
    assert chunk_bounds(3000) == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert chunk_bounds(3, minimum=1) == [(0, 1), (1, 2), (2, 3)]
    assert chunk_bounds(2, minimum=1) == [(0, 1), (1, 2)]
    assert chunk_bounds(255) == [(0, 255)]


@numba.njit(nogil=True)
def _record(chunk, start, stop, calls, number):
    calls[chunk, 0] += 1
    calls[chunk, 1], calls[chunk, 2], calls[chunk, 3] = start, stop, number


@numba.njit(nogil=True)
def record(team, chunks, *args):
    run_team(team, chunks, _record, args)


@numba.njit(nogil=True)
def _fail(chunk, start, stop, failing, done):
    if chunk == failing:
        raise ValueError
    for steps in range(20_000_000):  # some hundredths of a second
        done[chunk] = steps + done[(chunk + 1) % 3]
    done[chunk] = -1


@numba.njit(nogil=True)
def fail(team, chunks, *args):
    run_team(team, chunks, _fail, args)


@numba.njit(nogil=True)
def _meet(chunk, start, stop, arrived, met):
    for steps in range(2_000_000_000):
        arrived[chunk] = steps + 1
        if arrived.min() > 0:
            met[chunk] = True
            return


@numba.njit(nogil=True)
def meet(team, chunks, *args):
    run_team(team, chunks, _meet, args)


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_each_chunk_is_called_once_with_its_number_bounds_and_arguments(chunks):
    calls = np.zeros((chunks, 4), np.int64)
    run_chunks(record, [(10 * i, 10 * i + 7) for i in range(chunks)], calls, 3)
    assert calls.tolist() == [[1, 10 * i, 10 * i + 7, 3] for i in range(chunks)]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of loaded files")
def test_team_is_that_of_the_openmp_library_torch_has_loaded():
    loaded = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        file = Path(line.split()[-1])
        if "libgomp" in file.name and (file.parent.parent.name == "torch" or file.parent.name == "torch.libs"):
            low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
            loaded.append(range(low, high))
    assert all(any(address in part for part in loaded) for address in TEAM) if loaded else TEAM is _threads._ALONE


def test_chunks_run_at_the_same_time():
    met = np.zeros(3, bool)
    run_chunks(meet, [(0, 1), (1, 2), (2, 3)], np.zeros(3, np.int64), met)
    assert met.all()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_chunk_is_raised_when_all_are_done_and_the_next_call_works(failing):
    done = np.zeros(3, np.int64)
    with pytest.raises(MemoryError, match="A kernel failed"):
        run_chunks(fail, [(0, 1), (1, 2), (2, 3)], failing, done)
    assert [chunk for chunk in range(3) if done[chunk] == -1] == [chunk for chunk in range(3) if chunk != failing]
    run_chunks(fail, [(0, 1), (1, 2), (2, 3)], -1, done)
    assert done.tolist() == [-1, -1, -1]


def depthwise(seed, bounds, rows=2000):
    random = np.random.default_rng(seed)
    features, weight = random.normal(size=(rows, 8)), random.normal(size=(3, 8))
    table = random.integers(-1, rows, (3, rows)).astype(np.int32)
    out = np.full((rows, 8), np.nan)
    pairs = KernelMap([0, 1, 2], torch.from_numpy(table), rows, (3, 1, 1), int((table >= 0).sum())).pairs_by_output
    run_chunks(depthwise_forward, bounds, features, *pairs, weight, out)
    padded = np.concatenate([features, np.zeros((1, 8))])  # row -1 reads zeros
    return out, (padded[table] * weight[:, None]).sum(0)


def test_several_python_threads_run_kernels_at_once():
    depthwise(0, [(0, 2000)])  # compiled before the threads start
    bounds = [(0, 700), (700, 1400), (1400, 2000)]
    start = threading.Barrier(4)

    def work(number):
        start.wait(timeout=20)
        return [depthwise(seed, bounds) for seed in range(10 * number, 10 * number + 10)]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(4)):
            for found, expected in results:
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


FORKED = """
    import os, signal, sys, warnings
    warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads, which is what is tested
    import numpy as np
    from i2p_zoo.sparse import threads as _threads
    from i2p_zoo.sparse.kernels.sites import count_pairs

    def works():
        table, counts = np.array([[0, -1, 2], [0, 1, -1]], np.int32), np.zeros(3, np.int64)
        _threads.run_chunks(count_pairs, [(0, 1), (1, 2), (2, 3)], table, counts)
        return counts.tolist() == [2, 1, 1]

    assert works()
    with _threads._pools_lock:  # as where another thread starts a pool while this one forks
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if works() else 1)
    _, status = os.waitpid(child, 0)
    assert works()
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_runs_chunks_of_its_own():
    script = textwrap.dedent(FORKED)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
