"""InverseConv3d against torch's transposed convolution on a dense grid, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo.errors import CoordinateMismatchError, InvalidInputError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.inverse_convolution import InverseConv3d
from tests.helpers import random_cloud

EXTENT = 8


def levels(ratio, voxels=60):
    """A fine cloud and its coarse level, of one forward."""
    fine = random_cloud(3, voxels=voxels, extent=EXTENT)
    down = SparseConv3d(3, 4, ratio, stride=ratio, padding=((0, 0), (0, 0)), dtype=torch.float64)
    return fine, down(fine)


def on_grid(x, extent):
    grid = x.features.new_zeros(x.batch_size, extent, extent, extent, x.features.shape[1])
    return grid.index_put(tuple(x.coords.long().unbind(1)), x.features).movedim(-1, 1)


def at_sites(grid, coords):
    b, z, y, x = coords.long().unbind(1)
    return grid.movedim(1, -1)[b, z, y, x]


@pytest.mark.parametrize("ratio", [2, 4])
def test_values_and_gradients_are_those_of_a_transposed_convolution(ratio):
    fine, coarse = levels(ratio)
    features = coarse.features.detach().requires_grad_()
    layer = InverseConv3d(4, 5, (ratio,) * 3, dtype=torch.float64)
    out = layer(coarse.derive(features), fine)
    assert out.coords is fine.coords
    dense = on_grid(coarse.derive(features), EXTENT // ratio)
    weight = layer.weight.permute(4, 0, 1, 2, 3)
    expected = at_sites(F.conv_transpose3d(dense, weight, stride=ratio), fine.coords)
    assert torch.allclose(out.features, expected, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(expected)
    found = torch.autograd.grad((out.features * probe).sum(), [features, layer.weight])
    wanted = torch.autograd.grad((expected * probe).sum(), [features, layer.weight])
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_level_of_the_same_stride_is_a_linear_layer():
    fine, _ = levels(2)
    layer = InverseConv3d(3, 5, (1, 1, 1), dtype=torch.float64)
    assert torch.allclose(layer(fine, fine).features, fine.features @ layer.weight.flatten(1).t())


def test_levels_of_two_forwards_do_not_meet():
    (fine, _), (_, coarse) = levels(2), levels(2)
    with pytest.raises(CoordinateMismatchError, match="two inputs"):
        InverseConv3d(4, 5, (2, 2, 2), dtype=torch.float64)(coarse, fine)


def test_another_ratio_is_refused():
    fine, coarse = levels(4)
    with pytest.raises(InvalidInputError, match=r"\(4, 4, 4\) times as coarse.*ratio is \(2, 2, 2\)"):
        InverseConv3d(4, 5, (2, 2, 2), dtype=torch.float64)(coarse, fine)
