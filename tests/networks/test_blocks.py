"""Prediction in blocks against the whole scene at once."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.networks import blocks as prediction
from i2p_zoo.networks.blocks import _blocks, _within
from tests.helpers import property_test, randomise_norms_, seeded


def scene(points=6000, extent=(260, 60, 150), seed=0):
    """A bent sheet of voxels, (N, 3) points in voxels of edge 1, not all coordinates positive."""
    random = torch.rand((points, 2), generator=seeded(seed), dtype=torch.float64)
    height = (random[:, :1] * 9).sin() * 0.5 + 0.5
    return (torch.cat([random, height], 1)[:, [0, 2, 1]] * torch.tensor(extent) - 70).float()


def network(name="test_resnet", **kwargs):
    torch.manual_seed(0)
    return randomise_norms_(i2p_zoo.create_model(name, num_classes=5, voxel_size=1.0, **kwargs)).eval()


def by_site(x):
    return dict(zip(map(tuple, x.coords.tolist()), x.features, strict=True))


@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_efficientnet_ln", "test_mambaout"])
@pytest.mark.parametrize("options", [{}, {"stem": "point", "skip_downsamples": 2}], ids=["image stem", "point stem"])
def test_blocks_give_the_features_and_logits_of_the_whole(name, options):
    model = network(name, **options)
    points = [scene(points=3000, seed=0), scene(points=1250, seed=1)]
    whole = model.predict(points, features=True)
    # All blocks see all that a site depends on, so that not even their borders differ.
    in_blocks = model.predict(points, features=True, max_voxels=750, margin=448)
    assert in_blocks.stride == whole.stride
    expected, found = by_site(whole), by_site(in_blocks)
    assert found.keys() == expected.keys()
    scale = whole.features.abs().max()
    assert max(float((found[site] - expected[site]).abs().max() / scale) for site in expected) < 1e-5
    logits = model.predict(points, max_voxels=750, margin=448)
    with torch.no_grad():
        assert torch.allclose(logits, model(points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "margin"), [("legacy_xception", 0), ("legacy_xception", 448), ("convmixer_768_32", 0), ("convmixer_768_32", 64)]
)
def test_no_site_is_lost_where_layers_shift_sites_or_a_stride_divides_no_block(name, margin):
    model = network(name)
    points = torch.cat([scene(points=600), torch.tensor([[64.0, 0, 0]]) + torch.rand((300, 3), generator=seeded(3)) * 5])
    whole, found = (model.predict(points, features=True, **kwargs) for kwargs in ({}, {"max_voxels": 300, "margin": margin}))
    assert torch.equal(found.coords, whole.coords)
    if margin == 448:
        assert torch.allclose(found.features, whole.features, rtol=1e-3, atol=1e-4 * float(whole.features.abs().max()))


def test_small_margin_changes_only_what_is_near_a_border():
    model = network("test_resnet")
    whole = by_site(model.predict(scene(), features=True))
    found = by_site(model.predict(scene(), features=True, max_voxels=1500, margin=0))
    assert found.keys() == whole.keys()
    differs = {site for site in whole if not torch.allclose(found[site], whole[site], rtol=1e-4, atol=1e-5)}
    assert 0 < len(differs) < len(whole), "the borders are seen, and the middle of a block is not touched"


def test_blocks_hold_no_more_voxels_than_asked_for():
    model = network("test_resnet")
    sizes = []
    forward = model.forward_features
    model.forward_features = lambda x: sizes.append(len(x.coords)) or forward(x)
    model.predict(scene(), max_voxels=2500, margin=16)
    assert len(sizes) > 1
    assert max(sizes) <= 2500


@given(count=st.integers(1, 300), extent=st.integers(1, 900), limit=st.integers(1, 200), margin=st.integers(0, 80))
@property_test
def test_every_voxel_is_in_one_block(count, extent, limit, margin):
    coords = torch.randint(-extent, extent, (count, 3), generator=seeded(count), dtype=torch.int32)
    times = torch.zeros(count, dtype=torch.int64)
    for low, high in _blocks(coords, limit, margin):
        assert (low % 64 == 0).all()
        assert (high % 64 == 0).all()
        near = int(_within(coords, low - margin, high + margin).sum())
        assert near <= limit or (high - low <= 64).all()
        times += _within(coords, low, high)
    assert (times == 1).all()


def test_mode_and_gradients_are_as_before():
    model = network("test_resnet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model.predict(scene(), max_voxels=1500)
    assert model.training
    assert not logits.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layers_that_a_user_put_into_eval_mode_stay_in_it():
    model = network("test_resnet").train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norms[0].eval()
    model.predict(scene(points=500))
    assert [norm.training for norm in norms] == [False] + [True] * (len(norms) - 1)


def test_mode_is_as_before_after_an_error():
    model = network("test_resnet").train()
    with pytest.raises(InvalidInputError):
        model.predict(torch.zeros(0, 3), max_voxels=1500)
    assert model.training


@pytest.mark.parametrize(
    ("name", "value"), [("max_voxels", 0), ("max_voxels", -3), ("max_voxels", "5"), ("margin", -1), ("margin", 0.5)]
)
def test_bad_numbers_are_quoted(name, value):
    with pytest.raises(InvalidInputError, match=f"`{name}`.*{value}"):
        network().predict(scene(), **{"max_voxels": 1000, name: value})


@pytest.mark.parametrize("numbers", [{"max_voxels": np.int64(2000)}, {"max_voxels": 2e3, "margin": np.int32(64)}])
def test_numbers_of_any_kind_are_taken(numbers):
    assert network().predict(scene(points=500), **numbers).shape == (1, 5)


def test_network_that_shifts_sites_by_more_than_a_block_is_refused():
    model = network("test_resnet")
    forward = model.forward_features

    def shifted(x):
        out = forward(x)
        return out.derive(out.features, coords=out.coords + torch.tensor([0, 0, 0, 9], dtype=torch.int32))

    model.forward_features = shifted
    with pytest.raises(UnsupportedError, match="shifts sites by more than 64 voxels"):
        model.predict(scene(), max_voxels=1500, margin=16)


def test_blocks_keep_no_more_than_their_features():
    model = network("test_resnet")
    caches = []
    forward = model.forward_features

    def forward_and_watch(x):
        out = forward(x)
        caches.append(weakref.ref(out.cache))
        return out

    model.forward_features = forward_and_watch
    alive = []
    nearest = prediction._nearest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "_nearest", lambda kept: alive.append(sum(r() is not None for r in caches)) or nearest(kept))
        model.predict(scene(), max_voxels=1500, margin=64)
    assert len(caches) > 5
    assert set(alive) == {1}, "of the last block alone"


def test_network_that_strides_by_more_than_a_block_is_refused():
    model = network("test_resnet")
    forward = model.forward_features

    def strided(x):
        out = forward(x)
        out.stride = 128
        return out

    model.forward_features = strided
    with pytest.raises(UnsupportedError, match="128"):
        model.predict(scene(), max_voxels=1500)


GLOBAL = {  # what first looks at a whole cloud
    "test_vit": "its forward",  # adds a table of places
    "levit_128s": r"its layer 'stages\.0\.blocks\.0\.attn'",
    "davit_tiny": r"its layer 'stages\.0\.blocks\.0\.1\.attn'",  # among channels, of all voxels
}


@pytest.mark.parametrize("name", GLOBAL)
def test_network_that_looks_at_whole_clouds_runs_them_alone_and_says_which_layer_does(name):
    model = i2p_zoo.create_model(name, num_classes=3, stem="point", voxel_size=0.05).eval()
    clouds = [torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) for count in (40, 60)]
    with torch.no_grad():
        expected = model(clouds)
    assert torch.equal(model.predict(clouds), expected)
    assert torch.equal(model.predict(clouds, max_voxels=60), expected)
    reason = rf"A cloud has \d+ voxels, more than max_voxels=20, and .* cannot run in blocks: {GLOBAL[name]} gives"
    with pytest.raises(UnsupportedError, match=reason):
        model.predict(clouds, max_voxels=20)


SWIN = {"img_size": 56, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", SWIN),
        ("swinv2_tiny_window8_256", {**SWIN, "img_size": 64}),
        ("swin_tiny_patch4_window7_224", {**SWIN, "stem": "point"}),
    ],
)
def test_blocks_give_what_the_whole_gives_where_attention_is_in_windows(name, options):
    model = i2p_zoo.create_model(name, num_classes=5, voxel_size=1.0, inflation="average", **options).eval().double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):  # SwinV2 begins with blocks that do nothing
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(i), dtype=torch.float64)
    points = [scene(points=1500, extent=(400, 40, 90)), scene(points=50, seed=1)]
    whole = model.predict(points, features=True)
    sizes = []
    forward = model.forward_features
    model.forward_features = lambda x: sizes.append(len(x.coords)) or forward(x)
    in_blocks = model.predict(points, features=True, max_voxels=900, margin=64 if "stem" in options else 190)
    assert len(sizes) > 3
    expected, found = by_site(whole), by_site(in_blocks)
    assert found.keys() == expected.keys()
    assert max(float((found[site] - expected[site]).abs().max()) for site in expected) < 1e-9
    assert torch.allclose(model.forward_head(in_blocks), model.forward_head(whole), rtol=0, atol=1e-9)
    narrow = by_site(model.predict(points, features=True, max_voxels=900, margin=0))
    assert narrow.keys() == expected.keys()
    assert max(float((narrow[site] - expected[site]).abs().max()) for site in expected) > 1e-6


def test_an_image_is_in_no_blocks_either_where_tokens_look_at_all_of_it():
    model = i2p_zoo.create_model("test_vit", num_classes=2)
    image = torch.rand(1, 3, *model.settings.canvas, generator=seeded())
    with pytest.raises(UnsupportedError, match="cannot run in blocks: its forward"):
        model.predict(i2p_zoo.image_to_plane(image), max_voxels=100)
