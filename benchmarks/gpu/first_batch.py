"""The first batch after installation: a process of its own, with nothing compiled by Triton or numba before it.

python -m benchmarks.gpu.first_batch NETWORK CLOUDS DEVICE PRECISION     # prints seconds; run by `run_first_batch`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time


def run_first_batch(network: str, clouds: int, device: str, precision: str, timeout: float) -> float | None:
    """Returns the seconds from voxels to the end of a training step, with empty caches; None where it took too long."""
    command = [sys.executable, "-m", "benchmarks.gpu.first_batch", network, str(clouds), device, precision]
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: os.path.join(folder, name) for name in ("TRITON_CACHE_DIR", "I2P_ZOO_CACHE")}
        if device != "cpu":
            caches["NUMBA_CACHE_DIR"] = os.path.join(folder, "numba")
        try:
            run = subprocess.run(  # noqa: S603
                command, env={**os.environ, **caches}, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{run.stderr[-2000:]}")
    return float(run.stdout.split()[-1])


def _main(network: str, clouds: str, device: str, precision: str) -> None:
    import torch

    from benchmarks.gpu.cases import Batch, Case
    from benchmarks.gpu.clock import Clock, set_precision

    begin = time.perf_counter()
    clock = Clock(torch.device(device))
    case = Case(network, Batch(int(clouds), clock.device))
    with set_precision(precision, clock.device):
        case.step()
        clock.wait()
    sys.stdout.write(f"{time.perf_counter() - begin}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
