"""Reductions over sites and channels, against the same calls on the image that lies on the plane."""

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

REDUCTIONS = {
    "height and width": (2, 3),
    "height and width from behind": (-1, -2),
    "a list": [2, 3],
    "channels": 1,
    "channels in a tuple": (1,),
    "channels from behind": -3,
    "all but the batch": (1, 2, 3),
}


@pytest.mark.parametrize("keepdim", [False, True], ids=["", "keepdim"])
@pytest.mark.parametrize("dims", REDUCTIONS.values(), ids=REDUCTIONS.keys())
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_dimensions_is_that_of_the_image(how, dims, keepdim):
    check_on_plane(lambda x: getattr(x, how)(dims, keepdim), IMAGES)
    check_on_plane(lambda x: getattr(torch, how)(x, dim=dims, keepdim=keepdim), IMAGES)


@pytest.mark.parametrize("dims", [1, 2, (1, 2), (3, 4), (2, 3, 4), (1, -1, -2), (1, 2, 3, 4), -3], ids=str)
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_folded_channels_is_that_of_the_image(how, dims):
    for keepdim in (False, True):
        check_on_plane(lambda x, keep=keepdim: getattr(x.reshape(2, 2, 3, 3, 4), how)(dims, keep), random_images(2, 6, 3, 4))


def test_a_dtype_asked_for_is_given():
    x = image_to_plane(IMAGES.float())
    expected = IMAGES.float().mean((2, 3), dtype=torch.float64)
    assert x.mean((2, 3), dtype=torch.float64).dtype == expected.dtype
    assert x.sum(1, dtype=torch.float64).dtype == torch.float64
    assert F.softmax(x, 1, dtype=torch.float64).dtype == torch.float64
