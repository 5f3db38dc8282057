"""torch's FLOP counter on sparse layers, against pairs of sites that are counted by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from i2p_zoo import inflate
from tests.helpers import random_cloud


def pairs_of(x, kernel=3):
    """The pairs of an input and an output site of a centred window at stride 1."""
    sites = {tuple(site) for site in x.coords.tolist()}
    reach = range(-(kernel // 2), kernel // 2 + 1)
    shifts = list(itertools.product(reach, repeat=3))
    return sum((b, z + dz, y + dy, x_ + dx) in sites for b, z, y, x_ in sites for dz, dy, dx in shifts)


@pytest.mark.parametrize(("groups", "per_pair"), [(1, 4 * 8), (2, 4 * 8 // 2), (4, 8)])
def test_convolutions_count_the_pairs_of_sites_that_are_there(groups, per_pair):
    model = inflate(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=groups)))
    x = random_cloud(4, dtype=torch.float32).requires_grad_()
    expected = 2 * pairs_of(x) * per_pair
    with FlopCounterMode(display=False) as counter:
        out = model(x)
    assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False) as counter:
        out.features.sum().backward()
    assert counter.get_total_flops() == 2 * expected  # the gradients of the input and of the weight
    assert model(x).features.isfinite().all()
