"""Batches from other processes: the same bits, exact resumption, and errors as they are without."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import NotFoundError
from i2p_zoo.finetune import Classification, Options
from i2p_zoo.finetune.prefetching import prefetch
from i2p_zoo.inflation.settings import Settings
from tests.finetune.conftest import assert_same_bits, figures, shapes, tiny, train

SETTINGS = Settings(voxel_size=0.2, features="xyz,normals,rgb", rgb_mean=(0.5, 0.4, 0.3))


def clouds():
    """Clouds with all that a voxel can carry, of different lengths."""
    random = np.random.default_rng(1)
    lengths = (30, 50, 20, 40, 60, 10)
    points = [random.uniform(-1, 1, (length, 3)).astype(np.float32) for length in lengths]
    normals = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in points]
    rgb = [random.integers(0, 255, (length, 3)).astype(np.uint8) for length in lengths]
    return CloudSet(points, np.arange(6) % 3, ("a", "b", "c"), normals=normals, rgb=rgb)


def load(parts, workers, task=None, steps=range(3)):
    task = task or Classification(clouds())
    batches = task.batches(Options(batch_size=4))
    return list(prefetch(batches, functools.partial(task.gather, settings=SETTINGS), parts, steps, workers, is_pinned=False))


def test_workers_voxelize_to_the_same_bits_as_the_process_itself():
    parts = [slice(2, 3), slice(3, 4)]
    here, there = load(parts, 0), load(parts, 1)
    assert [len(share) for share in there] == [2, 2, 2]
    for mine, theirs in zip(here, there, strict=True):
        for batch, other in zip(mine, theirs, strict=True):
            assert (batch.batch_size, other.batch_size) == (1, 1)
            for name in ("coords", "features", "labels"):
                assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_a_batch_is_what_the_settings_make_of_its_clouds_and_makes_only_its_own():
    task = Classification(clouds())
    samples = task.batches(Options(batch_size=4))[1]
    ((batch,),) = load([slice(1, 3)], 0, steps=range(1, 2))
    expected, _ = SETTINGS.voxelize([cloud for cloud, _ in samples[1:3]])
    assert torch.equal(batch.voxels.coords, expected.coords)
    assert torch.equal(batch.voxels.features, expected.features)
    assert batch.labels.tolist() == [label for _, label in samples[1:3]]
    assert batch.voxels.cache.order(batch.voxels.coords) is None, "sorted, as `voxelize` leaves them"


def test_a_run_with_workers_goes_on_to_the_bits_of_one_without(tmp_path):
    accumulate = 2
    whole, halted = tiny(dropout=0.5), tiny(dropout=0.5)
    expected = train(whole, shapes(), accumulate=accumulate)

    def stop(entry):
        if entry.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(halted, shapes(), accumulate=accumulate, folder=tmp_path, save_every=3, workers=1, report=stop)
    resumed = tiny(dropout=0.5)
    history = train(resumed, shapes(), accumulate=accumulate, folder=tmp_path, resume=True, workers=1)
    assert figures(history) == figures(expected)
    assert_same_bits(resumed, whole.state_dict())


class Broken:
    """Samples of files that went away after two batches."""

    def draw(self, step, part):
        if step == 2:
            raise NotFoundError("shapes/3.off: no such file.")
        return [({"points": np.zeros((1, 3), np.float32)}, 0)][part]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_told_as_it_is_without_one(workers):
    gather = functools.partial(Classification.gather, settings=Settings(voxel_size=0.2))
    loaded = prefetch(Broken(), gather, [slice(0, 1)], range(4), workers, is_pinned=False)
    assert [next(loaded)[0].batch_size for _ in range(2)] == [1, 1]
    with pytest.raises(NotFoundError) as caught:
        next(loaded)
    assert str(caught.value) == "shapes/3.off: no such file."


class Fatal(Broken):
    def draw(self, step, part):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(step, part)


KILLED = """
import functools, sys
sys.path.insert(0, {root!r})
from i2p_zoo import WorkerError
from tests.finetune import test_prefetching as tests
if __name__ == "__main__":
    gather = functools.partial(tests.Classification.gather, settings=tests.SETTINGS.changed(features="xyz"))
    try:
        list(tests.prefetch(tests.Fatal(), gather, [slice(0, 1)], range(9), 1, is_pinned=False))
    except WorkerError as error:
        print(error)
"""


@pytest.mark.long
def test_a_worker_that_is_killed_is_told_with_what_to_do(tmp_path):
    """In a process of its own, since torch raises whatever runs when the signal arrives."""
    (tmp_path / "run.py").write_text(KILLED.format(root=str(Path(__file__).parents[2])))
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=200)
    assert re.fullmatch(r"One of 1 worker ended before .*\. If memory did not .*--shm-size=4g`\.\n", done.stdout), done.stderr


@pytest.mark.long
def test_a_program_that_its_workers_would_run_again_is_told_so(tmp_path):
    program = KILLED.replace('if __name__ == "__main__":', "if True:").format(root=str(Path(__file__).parents[2]))
    (tmp_path / "run.py").write_text(program)
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=200)
    assert "do its work below `if __name__ == '__main__':`" in done.stdout, done.stderr


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_what_cannot_be_sent_to_workers_is_told_in_one_line():
    class Local(Broken):
        pass

    gather = functools.partial(Classification.gather, settings=SETTINGS)
    with pytest.raises(InvalidInputError, match=r"cannot be sent to 1 worker \(.*Local.*\): take workers=0") as caught:
        next(prefetch(Local(), gather, [slice(0, 1)], range(1), 1, is_pinned=False))
    assert "\n" not in str(caught.value)


def test_what_workers_send_can_be_pinned_and_moved():
    ((batch,), *_) = load([slice(0, 4)], 0)
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch) if torch.cuda.is_available() else batch
    moved = pinned.to(torch.device("meta"))
    assert type(moved) is type(batch)
    assert (moved.coords.device.type, moved.labels.device.type, moved.batch_size, moved.points) == ("meta", "meta", 4, None)
