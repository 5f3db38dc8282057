"""Padding and up-sampling, against the same calls on the image that lies on the plane."""

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

PADS = {
    "each side its own": lambda x: F.pad(x, (1, 2, 3, 4)),
    "width only": lambda x: F.pad(x, (2, 1)),
    "before only": lambda x: F.pad(x, (1, 0, 1, 0)),
    "after only": lambda x: F.pad(x, (0, 1, 0, 1)),
    "nothing": lambda x: F.pad(x, (0, 0, 0, 0)),
    "channels by nothing": lambda x: F.pad(x, (1, 1, 1, 1, 0, 0)),
    "a crop": lambda x: F.pad(x, (-1, -2, 0, -3)),
    "a crop and a border": lambda x: F.pad(x, (2, -1, -2, 1)),
    "zeros by value": lambda x: F.pad(x, (1, 1), mode="constant", value=0.0),
    "a layer": nn.ZeroPad2d((1, 2, 0, 3)),
    "a border and its crop": lambda x: F.pad(F.pad(x, (2, 2, 1, 1)), (-2, -2, -1, -1)),
    "minus infinity before a maximum": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-float("inf")), 3, 2),
    "TensorFlow's before a maximum": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float("inf")), 3, 2),
    "before an average": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1),
    "after rows that stay": lambda x: F.avg_pool2d(F.pad(x, (0, 1)), 2, 1),
}


@AXES
@pytest.mark.parametrize("function", PADS.values(), ids=PADS.keys())
def test_padding_is_that_of_the_image(function, axis):
    check_on_plane(function, IMAGES, axis=axis)


def test_padding_shifts_the_sites_of_a_cloud_along_the_images_axes():
    x = random_cloud(2)
    for axis, shift in ((0, (0, 3, 1)), (1, (3, 0, 1)), (2, (3, 1, 0))):
        padded = F.pad(x.with_plan(axis=axis), (1, 2, 3, 4))
        assert torch.equal(padded.coords, x.coords + torch.tensor([0, *shift]))
        assert padded.features is x.features
        assert padded.spatial_shape is None


def pooled(x, factor=2):
    return F.avg_pool2d(x, factor)


UPSAMPLINGS = {
    "by a factor": lambda x: F.interpolate(pooled(x), scale_factor=2),
    "by two factors": lambda x: F.interpolate(pooled(x), scale_factor=(2.0, 2.0), mode="nearest"),
    "to a size": lambda x: F.interpolate(pooled(x), size=(8, 12)),
    "to the size of a tensor": lambda x: F.interpolate(pooled(x), size=x.shape[-2:], mode="nearest"),
    "by four at once": lambda x: F.interpolate(pooled(x, 4), scale_factor=4),
    "by four after two steps": lambda x: F.interpolate(pooled(pooled(x)), scale_factor=4.0),
    "twice by two": lambda x: F.interpolate(F.interpolate(pooled(pooled(x)), scale_factor=2), scale_factor=2),
    "a layer": lambda x: nn.Upsample(scale_factor=2)(pooled(x)),
    "into a sum": lambda x: x + F.interpolate(pooled(x) * 2, scale_factor=2),
    "by one": lambda x: F.interpolate(x, scale_factor=1),
    "to its own size": lambda x: F.interpolate(x, size=x.shape[-2:]),
}


@AXES
@pytest.mark.parametrize("function", UPSAMPLINGS.values(), ids=UPSAMPLINGS.keys())
def test_nearest_up_sampling_after_a_strided_layer_is_that_of_the_image(function, axis):
    check_on_plane(function, random_images(2, 3, 8, 12), axis=axis)


def test_up_sampling_gives_the_extent_of_its_own_history_whatever_ran_before():
    x = image_to_plane(random_images(1, 2, 8, 8))
    padded = F.pad(x, (0, 2, 0, 2))  # the same sites, as the same object, in a larger extent
    pooled(x)
    assert F.interpolate(pooled(padded), scale_factor=2).shape == (1, 2, 10, 10)


def test_a_cloud_without_border_has_no_size_to_sample_to():
    with pytest.raises(UnsupportedError, match=r"\(8, 8\): a cloud without a border"):
        F.interpolate(pooled(random_cloud(2)), size=(8, 8))
