"""Freed memory that is used again, counted in pages that the system hands out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from i2p_zoo import keep_freed_memory

def work():
    tensors = [torch.empty(size << 18).fill_(1) for size in (10, 10, 10, 40)]  # in MiB; glibc maps those over 32 at any setting

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(5):
    work()
before = pages()
for _ in range(10):  # of which one may find the room for a large tensor divided, and the heap grows once more
    work()
print((pages() - before) // 10)
"""


def count_pages(mode):
    # a fixed threshold, since glibc's own moves with what was freed before
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    run = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=False, env=environment)
    if run.returncode == 3:
        pytest.skip("the allocator is not glibc's")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_is_kept_costs_no_new_pages():
    assert 10 * count_pages("keep") < count_pages("return")
