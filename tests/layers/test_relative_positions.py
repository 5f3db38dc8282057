"""The relative positions of BoTNet and HaloNet: timm's skewing against reading a table, on dense tensors and images."""

from __future__ import annotations

import pytest
import torch
from timm.layers import bottleneck_attn, halo_attn
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn

from i2p_zoo import inflate
from tests.helpers import check_on_plane, random_images, relative_error
from tests.oracles import inflated, randomised


def test_botnets_table_gives_what_skewing_gives():
    leaf = randomised(bottleneck_attn.PosEmbedRel((3, 4), dim_head=5, scale=1.0).double())
    q = random_images(2, 12, 5)
    assert relative_error(inflated(leaf)(q), leaf(q)) < 1e-12


def test_halonets_table_gives_what_skewing_gives():
    leaf = randomised(halo_attn.PosEmbedRel(block_size=2, win_size=4, dim_head=5, scale=1.0).double())
    q = random_images(2, 6, 4, 5)
    assert relative_error(inflated(leaf)(q), leaf(q)) < 1e-12


ATTENTIONS = {
    "BoTNet": lambda: BottleneckAttn(8, feat_size=(4, 4), num_heads=2, dim_head=4),
    "HaloNet": lambda: HaloAttn(8, num_heads=2, dim_head=4, block_size=2, halo_size=1),
}


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("make", ATTENTIONS.values(), ids=ATTENTIONS.keys())
def test_attention_with_them_is_that_of_the_image(make, axis):
    module = randomised(make().double()).eval()
    network = torch.nn.Sequential(module)
    check_on_plane(inflate(network, axis=axis), random_images(2, 8, 4, 4), of_image=network, axis=axis, tolerance=1e-11)


@pytest.mark.parametrize("make", ATTENTIONS.values(), ids=ATTENTIONS.keys())
def test_their_tensors_are_the_leafs(make):
    leaf = make().pos_embed
    layer = inflated(leaf)
    assert {n: t.shape for n, t in layer.state_dict().items()} == {n: t.shape for n, t in leaf.state_dict().items()}
    layer.height_rel = torch.nn.Parameter(torch.zeros_like(layer.height_rel))
    assert leaf.height_rel.abs().sum() > 0
