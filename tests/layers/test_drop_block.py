"""DropBlock on voxels: the rate on surfaces and in volumes, whole neighbourhoods, and the scale that keeps the mean."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropBlock2d
from torch import nn

import i2p_zoo
from i2p_zoo import SparseTensor, UnsupportedError, image_to_plane
from tests.helpers import random_cloud


def block(**options):
    return i2p_zoo.inflate(nn.Sequential(nn.Identity(), DropBlock2d(**options))).train()


def solid(edge):
    return SparseTensor.from_dense(torch.ones(1, 1, edge, edge, edge))


SITES = {
    "a volume": lambda: solid(24),
    "an image": lambda: image_to_plane(torch.ones(1, 1, 96, 96)),
    "a plane of a cloud": lambda: image_to_plane(torch.ones(1, 1, 96, 96)).derive(torch.ones(96 * 96, 1), spatial_shape=None),
    "loose voxels": lambda: random_cloud(1, voxels=4000, extent=200, dtype=torch.float32),
}


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("make", SITES.values(), ids=SITES.keys())
def test_rate_is_the_mean_number_of_dropped_blocks_that_hold_a_voxel(make, size):
    """With seeds that are rare, blocks hardly overlap, so that the share of dropped voxels is the rate."""
    torch.manual_seed(0)
    x = make()
    x = x.derive(torch.ones(len(x.coords), 1))
    layer = block(drop_prob=0.05, block_size=size, scale_by_keep=False)
    dropped = torch.stack([(layer(x).features == 0).float().mean() for _ in range(60)])
    assert 0.035 < float(dropped.mean()) < 0.065


def test_what_is_dropped_are_cubes_of_voxels_in_all_channels():
    torch.manual_seed(0)
    x = solid(16)
    x = x.derive(torch.ones(len(x.coords), 4))
    kept = block(drop_prob=0.02, block_size=5)(x).dense()[0] != 0
    assert (kept == kept[:1]).all()
    gone = ~kept[0]
    assert gone.any()
    inside = torch.nn.functional.pad(gone[None, None].float(), [2] * 6, value=1)  # a cube may lie over the edge
    eroded = -torch.nn.functional.max_pool3d(-inside, 5, 1)
    again = torch.nn.functional.max_pool3d(torch.nn.functional.pad(eroded, [2] * 6), 5, 1)[0, 0] > 0
    assert torch.equal(again, gone)


def test_mean_is_kept_and_evaluation_changes_nothing():
    torch.manual_seed(0)
    x = solid(16)
    layer = block(drop_prob=0.2)
    assert float(layer(x).features.mean()) == pytest.approx(1, abs=1e-5)
    assert layer.eval()(x) is x


def test_gradient_passes_where_the_features_do():
    torch.manual_seed(0)
    x = solid(12)
    features = x.features.clone().requires_grad_()
    out = block(drop_prob=0.2)(x.derive(features)).features
    out.sum().backward()
    torch.testing.assert_close(features.grad, out.detach())


def test_network_with_drop_block_trains_on_a_cloud():
    model = i2p_zoo.create_model("resnet18", num_classes=3, drop_block_rate=0.1).train()
    model(random_cloud(3, voxels=300, extent=40, dtype=torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("options", [{"with_noise": True}, {"block_size": 4}], ids=str)
def test_kinds_that_have_no_sparse_counterpart_are_refused(options):
    with pytest.raises(UnsupportedError, match="DropBlock2d with noise"):
        block(drop_prob=0.1, **options)
