"""Outputs, errors and copies that certificates are measured with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from i2p_zoo import image_to_plane, inflate
from i2p_zoo.zoo.measurement import copy_with, flatten_outputs, live_copy, outputs_of, relative_error, share_tensors
from tests.helpers import random_images, small_net

IMAGES = random_images(2, 3, 6, 6).float()


def test_outputs_are_dense_rows_an_image():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    (expected,) = outputs_of(net, IMAGES, None)
    (flat,) = outputs_of(inflate(net, axis="y"), IMAGES, "y")
    assert flat.shape == expected.shape == (2, 4 * 36)
    torch.testing.assert_close(flat, expected)
    assert [t.shape for t in flatten_outputs((IMAGES, image_to_plane(IMAGES)))] == [(2, 108)] * 2


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [([[2.0, 4.0]], [[2.0, 3.0]], 0.25), ([[0.0, 0.0]], [[0.0, 0.0]], 0.0), ([[0.0]], [[1.0]], math.nan)],
)
def test_error_is_relative_to_the_largest_value_and_nan_where_there_is_none(expected, actual, error):
    pairs = [torch.ones(1, 1), torch.tensor(expected)], [torch.ones(1, 1), torch.tensor(actual)]
    for lists in (pairs, tuple(map(list, map(reversed, pairs)))):
        assert relative_error(*lists) == pytest.approx(error, nan_ok=True)


def test_copy_has_its_own_tensors_cast_or_others_and_ties_what_was_tied():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[2].weight = net[0].weight
    weight = torch.full((2, 2), 3.0)
    twin = copy_with(net, {"0.weight": weight}, torch.float64)
    assert twin[0].weight is twin[2].weight
    assert twin[0].weight.data_ptr() == weight.data_ptr()
    assert (twin[1].running_var.dtype, twin[1].num_batches_tracked.dtype) == (torch.float64, torch.int64)
    twin[1].running_mean += 1
    assert not net[1].running_mean.any()
    assert net.training
    assert not twin.training


def test_copies_share_or_cast_tensors_and_drop_what_was_computed_of_them():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.cache = nn.Parameter(torch.ones(2)), {}

        def train(self, mode=True):
            if mode:
                self.cache = {}
            return super().train(mode)

        def forward(self, x):
            return x * self.cache.setdefault("weight", self.weight.detach().exp())

    net = Cached().eval()
    expected = net(torch.ones(1, 2))
    shared, wide = share_tensors(net), copy_with(net, {}, torch.float64)
    assert shared.weight is net.weight
    assert (shared.cache, wide.cache, list(net.cache)) == ({}, {}, ["weight"])
    assert wide(torch.ones(1, 2).double()).dtype == torch.float64
    assert torch.equal(shared(torch.ones(1, 2)), expected)
    assert not shared.training


def test_live_copy_is_the_same_whatever_the_weights_and_has_nothing_dead():
    net = small_net()
    noise = torch.randn(1, 3, 16, 16)
    first = live_copy(net, noise)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    state = torch.get_rng_state()
    second = live_copy(net, noise)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.any() for parameter in net.parameters())
    for key, parameter in second.named_parameters():
        assert float(parameter.detach().std()) > 0.05, key
        if parameter.ndim > 1:
            assert torch.equal(parameter, first.get_parameter(key)), key
