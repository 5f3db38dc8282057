"""The pairs of each tap by Triton's kernels: those that numpy lists."""

from __future__ import annotations

import numpy as np
import torch

from i2p_zoo.sparse.kernels import pairs_triton
from tests.helpers import seeded


def check_pairs_of_each_tap_stand_behind_those_of_the_tap_before():
    for taps, rows, absent in ((1, 1, 0), (1, 1, 1), (3, 512, 200), (27, 1030, 900), (2, 1500, 1500), (125, 7, 3)):
        table = torch.randint(0, 10**6, (taps, rows), generator=seeded(taps), dtype=torch.int32)
        for tap in range(taps):
            table[tap, torch.randperm(rows, generator=seeded(tap))[:absent]] = -1
        if taps > 2:
            table[1] = -1  # a tap with no pair
        inputs, outputs, starts = pairs_triton.list_pairs(table)
        tap, output = np.nonzero(table.numpy() >= 0)
        pairs = len(tap)
        assert starts.tolist() == [0, *np.bincount(tap, minlength=taps).cumsum()]
        assert outputs[:pairs].tolist() == output.tolist()
        assert inputs[:pairs].tolist() == table.numpy()[tap, output].tolist()
        assert {values.dtype for values in (inputs, outputs, starts)} == {torch.int32}
