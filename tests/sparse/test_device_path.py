"""The device's way for CPU tensors: only within its block, and only in the thread that asks."""

from __future__ import annotations

import threading

import pytest
import torch

from i2p_zoo.sparse import device_path
from i2p_zoo.sparse.device_path import force_device_path, runs_triton, takes_device_path
from i2p_zoo.sparse.engines.numba_engine import NumbaMaximum, has_kernel
from i2p_zoo.sparse.engines.selection import choose_maximum

ROWS = torch.zeros(2, 3)


def test_cpu_tensors_go_the_device_s_way_within_a_block_alone():
    assert (takes_device_path(ROWS), has_kernel(ROWS), runs_triton(ROWS)) == (False, True, False)
    with force_device_path():
        assert (takes_device_path(ROWS), has_kernel(ROWS), runs_triton(ROWS)) == (True, False, device_path.has_triton())
        assert choose_maximum(ROWS) is not NumbaMaximum
    with pytest.raises(ArithmeticError), force_device_path():
        raise ArithmeticError
    assert choose_maximum(ROWS) is NumbaMaximum


def test_other_devices_always_do_and_other_threads_do_not():
    assert takes_device_path(torch.zeros(1, device="meta"))
    seen = []
    with force_device_path():
        thread = threading.Thread(target=lambda: seen.append(takes_device_path(ROWS)))
        thread.start()
        thread.join()
    assert seen == [False]


def test_triton_runs_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(device_path, "has_triton", lambda: False)
    with force_device_path():
        assert not runs_triton(ROWS)
