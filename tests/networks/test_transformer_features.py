"""What timm's transformers offer beside logits, on clouds: intermediate maps, feature pyramids, groups for layer decay."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import i2p_zoo
from i2p_zoo import SparseTensor
from tests.helpers import seeded

SWIN = {"depths": [1, 1, 2, 1], "embed_dim": 24, "num_heads": [1, 2, 4, 8]}
NETWORKS = {"test_vit": {}, "swin_tiny_patch4_window7_224": SWIN}
PYRAMIDS = {  # what timm tells of the 2D network: channels and strides of each map
    ("test_vit", "image"): ([64] * 3, [16] * 3),
    ("test_vit", "point"): ([64] * 3, [1] * 3),
    ("swin_tiny_patch4_window7_224", "image"): ([24, 48, 96, 192], [4, 8, 16, 32]),
    ("swin_tiny_patch4_window7_224", "point"): ([24, 48, 96, 192], [1, 2, 4, 8]),
}


def clouds():
    return [torch.rand(count, 3, generator=seeded(count), dtype=torch.float64) * 2 - 1 for count in (60, 90)]


def make(name, stem, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arguments = {"voxel_size": 0.1, "inflation": "average", "stem": stem, **NETWORKS[name], **kwargs}
        return i2p_zoo.create_model(name, **arguments).double().eval()


def sites(model, stride):
    """Where voxels of the network's input stand at a stride, each place once."""
    coords = model.prepare(clouds()).coords.long()
    coords[:, 1:] = torch.div(coords[:, 1:], stride, rounding_mode="floor")
    return coords.unique(dim=0).tolist()


@pytest.mark.parametrize(("name", "stem"), PYRAMIDS)
def test_feature_pyramid_is_timms_on_the_sites_of_the_canvas(name, stem):
    channels, strides = PYRAMIDS[name, stem]
    model = make(name, stem, features_only=True)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == (channels, strides)
    with torch.no_grad():
        maps, alone = model(clouds()), model(clouds()[1:])
    for features, second, width, stride in zip(maps, alone, channels, strides, strict=True):
        assert (features.features.shape[1], features.stride) == (width, stride)
        assert sorted(features.coords.tolist()) == sites(model, stride)
        rows = features.batch_rows == 1
        assert torch.equal(features.coords[rows, 1:], second.coords[:, 1:])
        assert torch.allclose(features.features[rows], second.features, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "stem"), PYRAMIDS)
def test_intermediates_end_in_what_the_network_gives(name, stem):
    model = make(name, stem, num_classes=3)
    with torch.no_grad():
        final, maps = model.forward_intermediates(clouds())
        logits = model(clouds())
        assert torch.allclose(model.forward_head(final), logits, rtol=1e-9, atol=1e-12)
        (last,) = model.forward_intermediates(clouds(), indices=1, norm=True, intermediates_only=True)
    assert all(isinstance(features, SparseTensor) for features in maps)
    assert torch.equal(last.coords, maps[-1].coords)
    assert not torch.equal(last.features, maps[-1].features)  # normalised


def test_extra_tokens_come_beside_the_maps():
    model = make("test_vit", "point", num_classes=3)
    with torch.no_grad():
        ((features, prefix),) = model.forward_intermediates(
            clouds(), indices=1, norm=True, intermediates_only=True, return_prefix_tokens=True
        )
        assert prefix.shape == (2, 1, 64)  # dense: each sample has them
        assert torch.allclose(model.head(model.fc_norm(prefix[:, 0])), model(clouds()), rtol=1e-9, atol=1e-12)
    assert len(features.features) == len(model.prepare(clouds()).coords)


@pytest.mark.parametrize("stem", ["image", "point"])
@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of_layer_decay_are_those_of_the_2d_network(name, stem):
    def rates(model):
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}

    model, reference = make(name, stem, num_classes=3), timm.create_model(name, num_classes=3, **NETWORKS[name])
    assert rates(model) == rates(reference)
    assert len({rate for rate, _ in rates(model).values()}) > 2
