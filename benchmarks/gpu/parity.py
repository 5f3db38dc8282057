"""The tests that need a GPU, in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FILES = ("tests/sparse/engines/test_selection.py", "tests/sparse/test_voxel_grid.py")
_ROOT = Path(__file__).parents[2]


def run_parity_tests(timeout: float, *, only: str = "") -> str:
    """Returns how many tests passed, failed and were skipped, and which failed.

    Args:
        timeout: seconds after which they are stopped.
        only: pytest's expression of names; by default all tests of the files run.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *FILES, *(["-k", only] if only else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        run = subprocess.run(  # noqa: S603
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not finished within {timeout:.0f} s"
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", run.stdout)}
    if not counts:
        return f"did not run: {(run.stderr or run.stdout).strip().splitlines()[-1:]}"
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    told = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("passed", "failed", "skipped"))
    return told + (f": {', '.join(failed)}" if failed else "")
