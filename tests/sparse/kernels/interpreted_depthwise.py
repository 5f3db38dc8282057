"""Depthwise convolution by Triton's kernels, against float64."""

from __future__ import annotations

import torch

from i2p_zoo.sparse.engines.tiles import BLOCKS
from i2p_zoo.sparse.kernels import depthwise_triton
from tests.helpers import relative_error, seeded


def check_depthwise_sums_and_their_weight_gradient():
    random = seeded()
    features, upstream = torch.randn(40, 70, generator=random), torch.randn(50, 70, generator=random)
    weight, table = torch.randn(3, 70, generator=random), torch.randint(-1, 40, (3, 50), generator=random, dtype=torch.int32)
    read = torch.cat([features.double(), torch.zeros(1, 70)])[table.long()]  # row -1 reads zeros
    expected = (read * weight.double()[:, None]).sum(0), (read * upstream.double()).sum(1)
    assert relative_error(depthwise_triton.forward(features, weight, table, BLOCKS[0]), expected[0]) < 1e-6
    assert relative_error(depthwise_triton.weight_gradient(features, upstream, table, BLOCKS[0]), expected[1]) < 1e-6
