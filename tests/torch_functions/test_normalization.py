"""Normalisation, linear layers and dropout, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import CoordinateMismatchError, I2PError, InvalidInputError, SparseTensor, UnsupportedError, image_to_plane, sparse_op
from i2p_zoo.sparse_tensor import _handlers
from tests.helpers import check_on_plane, random_cloud, random_images, seeded

IMAGES = random_images(2, 4, 6, 5)

def test_batch_norm_normalises_over_all_pixels_in_training_and_evaluation():
    for training in (True, False):
        for layer in (nn.BatchNorm2d(4).double(), nn.BatchNorm2d(4, affine=False).double()):
            layer.train(training)
            layer.running_mean += 0.3
            check_on_plane(layer, IMAGES, tolerance=1e-11)
    twin = nn.BatchNorm2d(4).double()
    layer = nn.BatchNorm2d(4).double()
    layer(IMAGES)
    twin(image_to_plane(IMAGES))
    assert torch.allclose(twin.running_mean, layer.running_mean, rtol=1e-12)
    assert torch.allclose(twin.running_var, layer.running_var, rtol=1e-12)


def test_prelu_has_one_slope_or_one_a_channel():
    for slopes in (torch.tensor([0.3]).double(), torch.tensor([0.1, 0.2, 0.3, -0.4]).double()):
        check_on_plane(F.prelu, IMAGES, slopes)


def test_dropout2d_drops_whole_channels_of_a_sample():
    x = random_cloud(50, voxels=60, batch_size=3)
    x = x.derive(torch.ones_like(x.features))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = F.dropout2d(x, 0.5, True).features
    for sample in range(3):
        rows = dropped[x.batch_rows == sample]
        assert torch.equal(rows, rows[:1].expand_as(rows))
        assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[x.batch_rows == 0][0], dropped[x.batch_rows == 1][0])
    assert torch.equal(F.dropout2d(x, 0.5, False).features, x.features)
