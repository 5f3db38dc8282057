"""Calls in processes: one that is killed is made again and takes no other with it; whoever stops asking stops them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conversion.side_by_side import call_side_by_side

WORK = """
import os, time

def note(task, processes):
    folder, name = task
    with open(folder + "/log", "a") as log:
        log.write(name + chr(10))
    if "killed" in name:
        time.sleep(0.3)  # the others are at work
        if name == "killed" or not os.path.exists(folder + "/once"):
            open(folder + "/once", "w").close()
            os.kill(os.getpid(), 9)
    time.sleep(0.5)
    return name.upper(), processes
"""
INTERRUPTED = """
import signal, sys
import work
from conversion.side_by_side import call_side_by_side

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    list(call_side_by_side(work.note, [(sys.argv[1], str(n)) for n in range(40)], 2))
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A function that notes what it is called with, which other processes import too; returns it and the notes."""
    place = tmp_path / "modules"
    place.mkdir()
    (place / "work.py").write_text(WORK)
    monkeypatch.syspath_prepend(place)
    import work

    yield work.note, lambda: (tmp_path / "log").read_text().split()
    del sys.modules["work"]


def test_killed_process_costs_its_call_and_no_other(work, tmp_path):
    note, notes = work
    names = ["a", "killed", "killed-once", *"bcde"]
    results = dict(call_side_by_side(note, [(str(tmp_path), name) for name in names], 2))
    assert {name: result and result[0] for (_, name), result in results.items()} == {
        name: None if name == "killed" else name.upper() for name in names
    }
    assert notes().count("killed") == 2
    assert all(notes().count(name) <= 2 for name in names)


def test_call_is_told_how_many_share_the_machine(work, tmp_path):
    note, notes = work
    for name, processes, again in (("a", 2, 2), ("killed-once", 2, 1)):  # alone the second time
        assert list(call_side_by_side(note, [(str(tmp_path), name)], processes)) == [
            ((str(tmp_path), name), (name.upper(), again))
        ]
    assert notes() == ["a", "killed-once", "killed-once"]


def test_consumer_that_stops_stops_the_processes(work, tmp_path):
    note, notes = work
    results = call_side_by_side(note, [(str(tmp_path), name) for name in "abcdefghij"], 2)
    next(results)
    results.close()
    assert len(notes()) <= 3


def test_interrupt_stops_the_processes(work, tmp_path):
    _, notes = work
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path / "modules")])}
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "log").exists() or len(notes()) < 6:  # both processes are at work
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does
        assert process.wait(10) != 0  # all forty take that long at least
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(notes()) < 12
