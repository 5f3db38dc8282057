"""The depthwise kernels for GPUs, run by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TRITON_SCRIPT = """
import torch
from i2p_zoo.sparse.kernels import depthwise_triton

random = torch.Generator().manual_seed(0)
for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14), (torch.float16, 2e-3)):
    features, upstream = (torch.randn(n, 70, generator=random, dtype=torch.float64).to(dtype) for n in (40, 50))
    weight = torch.randn(3, 70, generator=random, dtype=torch.float64).to(dtype)
    table = torch.randint(-1, 40, (3, 50), generator=random, dtype=torch.int32)
    read = torch.cat([features.double(), torch.zeros(1, 70)])[table.long()]  # row -1 reads zeros
    for found, expected in (
        (depthwise_triton.forward(features, weight, table), (read * weight.double()[:, None]).sum(0)),
        (depthwise_triton.weight_gradient(features, upstream, table), (read * upstream.double()).sum(1)),
    ):
        assert found.dtype == dtype
        assert (found - expected).abs().max() < tolerance * expected.abs().max(), dtype
print("right")
"""


def test_triton_kernels_are_right_in_triton_s_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", TRITON_SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "right\n", run.stderr
