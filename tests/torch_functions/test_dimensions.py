"""Joining, splitting, permuting, reshaping and indexing, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import CoordinateMismatchError, I2PError, InvalidInputError, SparseTensor, UnsupportedError, image_to_plane, sparse_op
from i2p_zoo.sparse_tensor import _handlers
from tests.helpers import check_on_plane, random_cloud, random_images, seeded

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)

CHANNELS = {
    "cat": lambda x: torch.cat([x, x * 2, x[:, :1]], 1),
    "cat of a negative dimension": lambda x: torch.cat((x, x * 2), dim=-3),
    "concat": lambda x: torch.concat([x, x], dim=1),
    "cat of folded channels": lambda x: torch.cat([x.reshape(2, 2, 2, 6, 5)] * 2, 2),
    "stack": lambda x: torch.stack([x, x * 2, x * 3], 1),
    "stack behind": lambda x: torch.stack([x, x * 2], dim=2),
    "stack and sum": lambda x: torch.stack([x, x * 2], dim=1).sum(1),
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, 3, dim=1),
    "chunk of a negative dimension": lambda x: x.chunk(2, dim=-3),
    "split": lambda x: x.split(3, 1),
    "torch.split": lambda x: torch.split(x, [1, 3], dim=1),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=1),
    "unbind": lambda x: x.unbind(1),
    "unbind of folded channels": lambda x: torch.unbind(x.view(2, 2, 2, 6, 5), dim=2),
    "unbind and stack": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "softmax": lambda x: x.softmax(1),
    "F.softmax": lambda x: F.softmax(x, dim=1),
    "softmax of folded channels": lambda x: torch.softmax(x.view(2, 2, 2, 6, 5), dim=2),
    "reshape": lambda x: x.reshape(2, 2, 2, 6, 5),
    "reshape of a size": lambda x: x.reshape((2, 2, -1, 6, 5)),
    "reshape back": lambda x: x.view(2, 2, 2, 6, 5).reshape(-1, 4, 6, 5),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze behind": lambda x: torch.unsqueeze(x, 2),
    "maximum over channels": lambda x: torch.max(x, 1, keepdim=True)[0],
    "maximum over channels, a method": lambda x: x.max(1).values,
    "mean and maximum side by side": lambda x: torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1),
}


@pytest.mark.parametrize("function", CHANNELS.values(), ids=CHANNELS.keys())
def test_channels_are_joined_split_and_folded_as_those_of_images(function):
    check_on_plane(function, IMAGES)


def test_the_index_of_the_maximum_channel_is_that_of_the_image():
    assert torch.equal(image_to_plane(IMAGES).max(1).indices.dense()[:, 0], IMAGES.max(1).indices)


INDICES = {
    "all": lambda x: x[:],
    "ellipsis": lambda x: x[...],
    "one channel": lambda x: x[:, 1],
    "the last channel": lambda x: x[:, -1],
    "a range of channels": lambda x: x[:, 1:3],
    "every second channel": lambda x: x[:, ::2],
    "channels by a list": lambda x: x[:, [2, 0, 2]],
    "channels by a tensor": lambda x: x[:, torch.tensor([3, 1])],
    "channels by a mask": lambda x: x[:, torch.tensor([True, False, True, True])],
    "a new channel dimension": lambda x: x[:, None],
    "a crop": lambda x: x[:, :, 1:4, 2:5],
    "a crop from behind": lambda x: x[:, :, -3:, :-1],
    "a crop of rows": lambda x: x[:, :, 2:],
    "a crop after an ellipsis": lambda x: x[..., 1:],
    "a crop beyond the border": lambda x: x[:, :, :99, 1:99],
    "channels and a crop": lambda x: x[:, 1:3, :-1, 1:],
    "a tensor and a crop": lambda x: x[:, torch.tensor([3, 1]), ..., :-2],
    "one channel of folded ones": lambda x: x.view(2, 2, 2, 6, 5)[:, 1],
    "a channel of each fold": lambda x: x.view(2, 2, 2, 6, 5)[:, :, 0],
    "a crop of folded channels": lambda x: x.view(2, 2, 2, 6, 5)[:, 0, ..., 1:, :],
    "crops one after the other": lambda x: x[:, :, 1:, 1:][:, :, 1:, :-1],
}


@AXES
@pytest.mark.parametrize("function", INDICES.values(), ids=INDICES.keys())
def test_indexing_is_that_of_the_image(function, axis):
    check_on_plane(function, IMAGES, axis=axis)
