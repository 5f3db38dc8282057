"""LSTMs along one side of an image, against the leaf on images; groups of unlike length one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2p_zoo import SparseTensor, UnsupportedError, image_to_plane, inflate
from tests.helpers import random_images, relative_error
from tests.oracles import as_dense, check_as_image, inflated, randomised

LEAVES = {
    "one way": nn.LSTM(4, 3, batch_first=True),
    "both ways": nn.LSTM(4, 3, batch_first=True, bidirectional=True),
    "two layers": nn.LSTM(4, 3, num_layers=2, batch_first=True, bias=False),
}
ON_LEAVES = pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES.keys())


def rows(x):
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[3], 4)


def columns(x):
    return x.permute(0, 3, 2, 1).reshape(-1, x.shape[2], 4)


@ON_LEAVES
@pytest.mark.parametrize("along", [rows, columns, lambda x: x.flatten(2).transpose(1, 2)], ids=["rows", "columns", "places"])
@pytest.mark.parametrize("axis", ["z", "y"])
def test_it_is_the_leaf_on_images(leaf, along, axis):
    leaf = randomised(leaf.double())
    layer = inflated(leaf)
    images = random_images(2, 4, 5, 6)
    check_as_image(lambda x: layer(along(x))[0], images, of_image=lambda x: leaf(along(x))[0], axis=axis, tolerance=1e-11)
    assert layer(along(images))[0].equal(leaf(along(images))[0]), "a dense tensor runs as it did"


def test_gaps_are_passed_over_and_rows_of_unlike_length_run_alone():
    leaf = randomised(nn.LSTM(4, 3, batch_first=True).double())
    sites = torch.tensor([[0, 0, 2, 5], [0, 0, 0, 3], [0, 0, 2, 1], [0, 0, 2, 4]], dtype=torch.int32)
    x = SparseTensor(random_images(4, 4), sites, spatial_shape=(1, 3, 6))
    found = as_dense(inflated(leaf)(rows(x))[0]).reshape(3, 6, 3)
    for row, places, order in ((0, [3], [1]), (2, [1, 4, 5], [2, 3, 0])):
        assert relative_error(found[row, places], leaf(x.features[order][None])[0][0]) < 1e-12


def test_its_parameters_are_the_leafs_names_and_its_own_to_change():
    leaf = nn.LSTM(4, 3, batch_first=True)
    before = leaf.weight_ih_l0.detach().clone()
    layer = inflate(nn.Sequential(leaf))[0]
    assert list(layer.state_dict()) == list(leaf.state_dict())
    layer.weight_ih_l0 = nn.Parameter(torch.zeros_like(before))
    assert torch.equal(leaf._flat_weights[0], before)
    assert torch.equal(layer._flat_weights[0], torch.zeros_like(before))


def test_what_is_no_run_of_tokens_is_refused():
    layer = inflated(nn.LSTM(4, 3, batch_first=True).double())
    x = image_to_plane(random_images(2, 4, 5, 6))
    state = (torch.zeros(1, 10, 3).double(),) * 2
    for call in (lambda: layer(x), lambda: layer(rows(x), state), lambda: layer(x.flatten(2).permute(2, 0, 1).transpose(1, 2))):
        with pytest.raises(UnsupportedError, match="An LSTM"):
            call()
