"""Patch dropout: how many tokens each cloud keeps, that they keep their places, and that evaluation drops none."""

from __future__ import annotations

import pytest
import torch

import i2p_zoo
from tests.helpers import seeded


def clouds():
    return [torch.rand(count, 3, generator=seeded(count)) for count in (7, 90, 200)]


def tokens_of(model, x):
    """The rows of tokens that enter the first block."""
    seen = []
    handle = model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].rows))
    try:
        model(x)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "options"), [("test_vit", {}), ("eva02_tiny_patch14_224", {"depth": 1})])
def test_each_cloud_keeps_its_share_of_tokens_in_their_places(name, options):
    model = i2p_zoo.create_model(name, num_classes=3, stem="point", voxel_size=0.2, patch_drop_rate=0.6, **options)
    plain = i2p_zoo.create_model(name, num_classes=3, stem="point", voxel_size=0.2, **options)
    plain.load_state_dict(model.state_dict())
    x = model.prepare(clouds())
    counts = x.sample_counts.tolist()
    drawn = []
    for seed in (0, 1, 1):
        torch.manual_seed(seed)
        rows = tokens_of(model.train(), clouds())
        assert rows.prefix == 1
        assert torch.bincount(rows.coords[:, 0].long()).tolist() == [max(1, int(count * 0.4)) for count in counts]
        drawn.append(set(map(tuple, rows.coords.tolist())))
        assert drawn[-1] < set(map(tuple, x.coords.tolist()))
    assert drawn[0] != drawn[1] == drawn[2]
    model(clouds()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model.eval()(clouds()), plain.eval()(clouds()))
