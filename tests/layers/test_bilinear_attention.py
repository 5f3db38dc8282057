"""Bilinear attention on planes against timm's, and on clouds against a plain loop."""

from __future__ import annotations

import pytest
import torch
from timm.layers.non_local_attn import BatNonLocalAttn, BilinearAttnTransform
from torch import nn

from i2p_zoo import InvalidInputError, image_to_plane, inflate
from tests.helpers import check_on_plane, random_cloud, random_images, randomise_norms_, relative_error


def attention(channels=8, blocks=4, groups=2) -> nn.Module:
    torch.manual_seed(0)
    return randomise_norms_(BilinearAttnTransform(channels, blocks, groups)).double().eval()


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("extents", [(8, 12), (4, 4), (16, 8)], ids=str)
def test_attention_of_a_plane_is_that_of_the_image(extents, axis):
    model = nn.Sequential(attention())
    check_on_plane(inflate(model, axis=axis), random_images(2, 8, *extents), of_image=model, axis=axis, tolerance=1e-11)


def test_whole_module_of_a_plane_is_that_of_the_image():
    model = randomise_norms_(BatNonLocalAttn(16, block_size=2, groups=2, rd_channels=8)).double().eval()
    check_on_plane(inflate(model), random_images(2, 16, 8, 6), of_image=model, tolerance=1e-11)


def test_extent_that_the_blocks_do_not_divide_is_refused_as_timm_does():
    with pytest.raises(InvalidInputError, match=r"\(1, 8, 10\).*divisible by the 4 blocks"):
        inflate(nn.Sequential(attention()))(image_to_plane(random_images(1, 8, 8, 10)))


def test_a_sample_of_a_cloud_does_not_depend_on_the_others():
    net = inflate(nn.Sequential(attention()))
    x = random_cloud(8, voxels=60, batch_size=2, extent=7)
    both = net(x)
    for sample in (0, 1):
        rows = x.batch_rows == sample
        coords = x.coords[rows].clone()
        coords[:, 0] = 0
        coords[:, 1:] += 5 * sample
        alone = net(type(x)(x.features[rows], coords, batch_size=1))
        assert relative_error(alone.features, both.features[rows]) < 1e-12


def test_output_stands_on_the_sites_of_the_cloud_and_is_finite():
    net = inflate(nn.Sequential(attention(blocks=2)))
    x = random_cloud(8, voxels=4**3 * 1, batch_size=1, extent=4)
    out = net(x)
    assert out.coords is x.coords
    assert bool(torch.isfinite(out.features).all())
