"""Space-to-depth against timm's on images, and against plain Python on clouds."""

from __future__ import annotations

import itertools

import pytest
import torch
from timm.layers.space_to_depth import SpaceToDepth
from torch import nn
from torch.nn import functional as F

from i2p_zoo import SparseTensor, UnsupportedError, image_to_plane, inflate
from i2p_zoo.layers.space_to_depth import SparseSpaceToDepth
from tests.helpers import check_on_plane, random_cloud, random_images, strided_sites
from tests.oracles import inflated, last, randomised

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])


@AXES
@pytest.mark.parametrize("extents", [(8, 8), (4, 12), (16, 4)], ids=str)
def test_space_to_depth_of_a_plane_is_that_of_the_image(extents, axis):
    layer = inflated(SpaceToDepth(4), axis)
    assert type(layer) is SparseSpaceToDepth
    check_on_plane(layer, random_images(2, 3, *extents), axis=axis, of_image=SpaceToDepth(4))


@AXES
def test_a_convolution_behind_it_is_that_of_the_image(axis):
    network = randomised(nn.Sequential(SpaceToDepth(4), nn.Conv2d(48, 5, 3, padding=1), nn.ReLU()).double())
    check_on_plane(inflate(network, axis=axis), random_images(2, 3, 16, 12), axis=axis, of_image=network)


def rearranged(x, site, axis):
    """The 16 * C features of a block: the mean of each column's voxels, column by column; differentiable."""
    row_of = {tuple(at): row for row, at in enumerate(x.coords.tolist())}
    sample, *corner = site[0], *(4 * c for c in site[1:])
    parts = []
    for height, width in itertools.product(range(4), repeat=2):
        rows = []
        for deep in range(4):
            offset = [height, width]
            offset.insert(axis, deep)
            rows.append(row_of.get((sample, *(c + o for c, o in zip(corner, offset, strict=True)))))
        rows = [row for row in rows if row is not None]
        parts.append(x.features[rows].mean(0) if rows else x.features.new_zeros(x.features.shape[1]))
    return torch.cat(parts)


@pytest.mark.parametrize("low", [-5, 0, 3])
@AXES
def test_space_to_depth_of_a_cloud_averages_the_columns_of_each_block(axis, low):
    x = random_cloud(3, voxels=150, batch_size=3, extent=7, low=low).with_plan(axis="zyx".index(axis))
    features = x.features.requires_grad_()
    out = inflated(SpaceToDepth(4), axis)(x.derive(features))
    assert list(map(tuple, out.coords.tolist())) == strided_sites(x.coords, (4, 4, 4))
    assert (out.stride, out.plan.level, out.spatial_shape, out.shape[1]) == (4, 2, None, 48)
    expected = torch.stack([rearranged(x.derive(features), site, "zyx".index(axis)) for site in out.coords.tolist()])
    assert torch.allclose(out.features, expected, rtol=1e-12, atol=1e-12)
    cotangent = random_images(*expected.shape)
    found, truth = (torch.autograd.grad(value, features, cotangent)[0] for value in (out.features, expected))
    assert torch.allclose(found, truth, rtol=1e-12, atol=1e-12)


def test_a_hole_in_a_plane_is_zero_in_its_channels():
    images = random_images(1, 2, 8, 8)
    images[:, :, 5, 2] = 0
    x = image_to_plane(images)
    kept = (x.features != 0).any(1)
    x = SparseTensor(x.features[kept], x.coords[kept], spatial_shape=x.spatial_shape)
    assert torch.equal(inflated(SpaceToDepth(4))(x).dense()[:, :, 0], SpaceToDepth(4)(images))


def test_branches_of_the_same_blocks_meet():
    x = random_cloud(2, voxels=80)
    block = inflated(SpaceToDepth(4))(x)
    assert torch.cat([block, F.max_pool2d(x, 4), F.avg_pool2d(x, 5, 4, 2)], 1).shape[1] == 32 + 4


def test_channels_behind_are_refused():
    with pytest.raises(UnsupportedError, match="needs channels before"):
        inflated(SpaceToDepth(4))(last(random_cloud(2)))


@pytest.mark.parametrize("pads", [(4, 0, 4, 0), (2, 2, 2, 2), (-4, 0, 0, 0), (0, 4, 0, 4)], ids=str)
def test_padding_before_it_is_that_of_the_image(pads):
    network = nn.Sequential(nn.ZeroPad2d(pads), SpaceToDepth(4))
    check_on_plane(inflate(network), random_images(2, 3, 8, 8), of_image=network)
