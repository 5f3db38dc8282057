"""Stems: what reads the image, the paper's point stem in its place, other channel counts, and skipped strides."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from i2p_zoo import I2PError, InvalidInputError, SparseTensor, UnsupportedError, create_model, inflate, inflate_weight
from i2p_zoo.layers.point_stem import DroppedPool, PointStemConv3d
from i2p_zoo.networks.models import Adaptation, adapt_
from i2p_zoo.networks.stems import adapt_in_chans_, find_stem, set_point_stem_
from tests.helpers import dense_convolution, make_window, random_cloud, randomise_norms_, relative_error, seeded, strided_sites

STEMS = {  # name: the convolutions that read the image and the pools of the second halving, with the halvings of each
    "resnet18": ({"conv1": 1}, {"maxpool": 1}),
    "test_resnet": ({"conv1.0": 1}, {"maxpool": 1}),
    "resnetblur18": ({"conv1": 1}, {"maxpool.0": 0, "maxpool.1": 1}),
    "densenet121": ({"features.conv0": 1}, {"features.pool0": 1}),
    "test_efficientnet": ({"conv_stem": 1}, {}),
    "repvgg_a0": ({"stem.conv_1x1.conv": 1, "stem.conv_kxk.conv": 1}, {}),
    "dla34": ({"base_layer.0": 0}, {}),
    "inception_v3": ({"Conv2d_1a_3x3.conv": 1}, {"Pool1": 1}),
    "inception_v4": ({"features.0.conv": 1}, {}),  # its pool stands beside a convolution that halves too
    "crossvit_tiny_240": ({"patch_embed.0.proj": 3, "patch_embed.1.proj": 4}, {}),  # the second reads a resized image
    "davit_tiny": ({"stem.conv": 2}, {}),  # pads the image, by nothing at its own size
    "test_byobnet": ({"stem.conv": 1}, {}),  # its pool is the shortcut of a block that halves
}
SKIPS = [0, 1, 2, 3, 5]


def sites(x):
    return sorted(map(tuple, x.coords.tolist()))


def cloud(in_chans=3, dtype=torch.float32):
    return random_cloud(in_chans, voxels=300, extent=70, dtype=dtype)


# Finding the stem.


@pytest.mark.parametrize("name", STEMS)
def test_stem_is_what_reads_the_image_and_the_pooling_of_the_second_halving(name):
    model = timm.create_model(name)
    stem = find_stem(model)
    assert (stem.convolutions, stem.pools) == STEMS[name]


def test_stem_of_another_number_of_channels_is_found():
    assert find_stem(timm.create_model("test_resnet", in_chans=5)).convolutions == {"conv1.0": 1}


class TwoSizes(nn.Module):
    """A user's own network of two resolutions."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 3, 2)
        self.shrink = nn.Upsample(scale_factor=0.5, mode="bilinear")

    def forward(self, x):
        return self.large(x).mean((2, 3)) + self.small(self.shrink(self.shrink(x))).mean((2, 3))


def test_each_branch_that_reads_the_image_at_a_size_of_its_own_is_stem():
    assert find_stem(TwoSizes()).convolutions == {"large": 1, "small": 1}


@pytest.mark.parametrize("stem", ["point", "patch"])
def test_branches_of_several_sizes_all_take_the_channels_of_points(stem):
    model = create_model("crossvit_tiny_240", stem=stem, in_chans=5, num_classes=2).eval()
    assert [n for n, m in model.named_modules() if isinstance(m, PointStemConv3d)] == [
        "patch_embed.0.proj",
        "patch_embed.1.proj",
    ]
    with torch.no_grad():
        assert model(cloud(5)).isfinite().all()


def test_finding_the_stem_leaves_the_network_untouched():
    model = timm.create_model("test_resnet").train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    find_stem(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_network_whose_convolutions_do_not_read_the_image_itself_has_no_point_stem():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x / 255)

    with pytest.raises(UnsupportedError, match=r"no convolution of .*Scaled reads the image itself"):
        find_stem(Scaled())


def test_network_that_folds_the_image_before_its_first_convolution_drops_the_folding():
    # The first convolution has 48 channels: it reads 4x4 pixels folded into them.
    stem = find_stem(timm.create_model("tresnet_m"))
    assert (stem.convolutions, stem.pools) == ({"body.conv1.conv": 0}, {"body.s2d": 2})
    model = create_model("tresnet_m", stem="point", in_chans=5, num_classes=2)
    assert model.body.conv1.conv.in_channels == 5
    x = random_cloud(5, dtype=torch.float32)
    assert model.body.conv1(model.body.s2d(x)).stride == 1


def test_network_whose_convolutions_all_read_something_else_has_no_point_stem():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnsupportedError, match="no convolution of Sequential reads the image itself"):
        find_stem(model)


# The point stem.


@pytest.mark.parametrize("name", ["resnet18", "resnetblur18", "test_resnet"])
def test_pools_of_the_stem_are_dropped_and_the_rest_stays(name):
    source = timm.create_model(name)
    model = create_model(name, stem="point")
    conv, pools = (list(part) for part in STEMS[name])
    assert [n for n, m in model.named_modules() if isinstance(m, DroppedPool)] == pools
    assert [n for n, m in model.named_modules() if isinstance(m, PointStemConv3d)] == conv
    whole = {n for n, m in inflate(source).named_modules()}
    assert {n for n, m in model.named_modules()} == whole


def test_point_stem_keeps_dtype_and_bias():
    source = nn.Sequential(nn.Conv2d(3, 4, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)).double()
    model = inflate(source)
    model.in_chans = 3
    set_point_stem_(model, find_stem(source), 5)
    assert model[0].weight.dtype == torch.float64
    assert model[0].bias.shape == (4,)
    assert model(cloud(5, torch.float64)).stride == 1


@pytest.mark.parametrize("name", ["test_byobnet", "repvgg_a0", "dla34"])
@pytest.mark.parametrize("skip", [0, 2])
def test_network_of_branches_runs_with_a_point_stem(name, skip):
    model = create_model(name, stem="point", skip_downsamples=skip, num_classes=3).eval()
    with torch.no_grad():
        assert model(cloud()).isfinite().all()


def test_point_stem_is_not_turned_back():
    model = create_model("test_resnet", stem="point")
    with pytest.raises(InvalidInputError, match="point stem; its image stem is gone"):
        adapt_(model, Adaptation(stem="image"), lambda: timm.create_model("test_resnet"))
    with pytest.raises(InvalidInputError, match="reads 3 channels; got in_chans=4"):
        adapt_(model, Adaptation(in_chans=4), lambda: timm.create_model("test_resnet"))


# Strides.


def expected_strides(reductions, skip):
    return [max(reduction >> skip, 1) for reduction in reductions]


def check_maps(model, x, strides):
    maps = model(x)
    assert [m.stride for m in maps] == strides
    for m, stride in zip(maps, strides, strict=True):
        assert sites(m) == strided_sites(x.coords, (stride,) * 3)
        assert m.features.shape[1] == model.feature_info.channels()[maps.index(m)]


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "dla34"])
def test_skipped_halvings_are_the_first_ones_of_an_image_stem(name, skip):
    model = create_model(name, features_only=True, skip_downsamples=skip).eval()
    with torch.no_grad():
        check_maps(model, cloud(), expected_strides([2, 4, 8, 16, 32], skip))


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize(("name", "own"), [("test_resnet", 2), ("test_efficientnet", 1)])
def test_halvings_of_a_replaced_stem_count_among_the_skipped_ones(name, own, skip):
    model = create_model(name, features_only=True, stem="point", skip_downsamples=skip).eval()
    with torch.no_grad():
        check_maps(model, cloud(), expected_strides([2, 4, 8, 16, 32], max(own, skip)))


@pytest.mark.parametrize(("skip", "stride"), [(0, 8), (1, 4), (2, 2), (3, 1), (4, 1)])
def test_layer_that_quarters_counts_as_two_halvings(skip, stride):
    net = inflate(nn.Sequential(nn.Conv2d(3, 4, 7, stride=4, padding=3), nn.MaxPool2d(3, 2, 1)))
    net.settings = net.settings.changed(skip_downsamples=skip)
    x = cloud()
    out = net(x)
    assert out.stride == stride
    assert sites(out) == strided_sites(x.coords, (stride,) * 3)


# Networks whose main path halves by 1x1 convolutions, and one of two branches that do.
POINTWISE = ["legacy_seresnet50", "dpn48b", "repvgg_a0", "mobileone_s0"]


@pytest.mark.parametrize("skip", [1, 3])
@pytest.mark.parametrize("name", POINTWISE)
def test_a_skipped_pointwise_convolution_counts_as_a_halving(name, skip):
    model = create_model(name, skip_downsamples=skip).eval()
    with torch.no_grad():
        out = model.forward_features(model.prepare(cloud()))
    assert out.stride == 32 >> skip


def test_skipped_layer_is_the_same_layer_at_stride_one():
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    net = inflate(layer, "copy")
    net.settings = net.settings.changed(skip_downsamples=1)
    x = cloud(dtype=torch.float64)
    out = net(x)
    expected = dense_convolution(x.features, x.coords, x.coords, net.weight, net.bias, make_window((3, 3, 3)), 1)
    assert torch.equal(out.coords, x.coords)
    assert relative_error(out.features, expected) < 1e-12


def test_up_sampling_network_runs_with_skipped_halvings():
    model = randomise_norms_(create_model("hrnet_w18_small", num_classes=3)).eval()
    x = cloud()
    found = []
    with torch.no_grad():
        for skip in (0, 1, 3):
            model.settings = model.settings.changed(skip_downsamples=skip)
            found.append(model(x))
    assert all(logits.isfinite().all() for logits in found)
    assert not torch.allclose(found[0], found[1])


# The image stem for other channels.


def adapted_by_hand(weight, in_chans):
    """timm's rule for (C_out, 3, ky, kx): summed for one channel; else repeated in order, scaled to the same sum."""
    if in_chans == 1:
        return weight.sum(1, keepdim=True)
    return torch.stack([weight[:, channel % 3] for channel in range(in_chans)], 1) * 3 / in_chans


@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
@pytest.mark.parametrize("in_chans", [1, 2, 4, 6])
def test_image_stem_is_adapted_as_timm_adapts_the_2d_weights(in_chans, inflation):
    source = timm.create_model("test_efficientnet")
    model = inflate(source, inflation, axis="y")
    model.in_chans = 3
    model.conv_stem.weight.requires_grad_(False)
    adapt_in_chans_(model, find_stem(source), in_chans)
    expected = inflate_weight(adapted_by_hand(source.conv_stem.weight.detach(), in_chans), inflation, "y")
    assert relative_error(model.conv_stem.weight, expected) < 1e-6
    assert (model.conv_stem.in_channels, model.conv_stem.weight.requires_grad) == (in_chans, False)
    assert model.conv_stem.weight.is_contiguous()
    with torch.no_grad():
        assert model.eval()(cloud(in_chans)).isfinite().all()


def test_adapted_image_stem_of_float64_keeps_float64_precision():
    source = timm.create_model("test_efficientnet").double()
    with torch.no_grad():
        source.conv_stem.weight.add_(torch.rand(source.conv_stem.weight.shape, generator=seeded(1), dtype=torch.float64))
    model = inflate(source)
    adapt_in_chans_(model, find_stem(source), 4)
    expected = inflate_weight(adapted_by_hand(source.conv_stem.weight.detach(), 4), "center")
    assert relative_error(model.conv_stem.weight, expected) < 1e-12


@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 3), (1, 3), (4, 1)])
def test_stem_that_cannot_be_adapted_says_so(old, new):
    source = timm.create_model("test_resnet", in_chans=old)
    model = create_model("test_resnet", in_chans=old)
    with pytest.raises(I2PError, match=f"(?s){old}.*{new}"):
        adapt_(model, Adaptation(in_chans=new), lambda: source)
    assert model.in_chans == old
    assert model(SparseTensor(torch.rand(40, old), cloud().coords[:40])).isfinite().all()


# Transformers: a patch embedding is a stem too.


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("test_vit", {"stem": "point"}, [1]),
        ("test_vit", {"stem": "patch"}, [2]),
        ("test_vit", {"stem": "patch", "skip_downsamples": 3}, [2]),
        ("test_vit", {"stem": "patch", "skip_downsamples": 4}, [1]),
        ("test_vit", {"skip_downsamples": 1}, [8]),
        ("vit_small_patch14_dinov2", {"depth": 3, "stem": "patch"}, [2]),
        ("vit_small_patch14_dinov2", {"depth": 3, "skip_downsamples": 1}, [7]),
        ("swin_tiny_patch4_window7_224", {"stem": "patch"}, [2, 4, 8, 16]),
        ("mobilevit_xxs", {"stem": "point", "skip_downsamples": 4}, [1, 1, 1, 1, 2]),
        ("test_resnet", {"stem": "patch"}, [2, 2, 4, 8, 16]),
    ],
)
def test_stems_and_skips_give_a_transformer_the_strides_that_feature_info_tells(name, options, strides):
    model = create_model(name, features_only=True, **options).eval()
    with torch.no_grad():
        maps = model(cloud())
    assert sorted({m.stride for m in maps}) == sorted(set(strides)) == sorted(set(model.feature_info.reduction()))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("test_vit", {"skip_downsamples": 5}, "is 5, and .* halves 4 times"),
        ("vit_small_patch14_dinov2", {"depth": 1, "skip_downsamples": 2}, "is 2: A stride of 14 cannot be halved 2 times"),
        ("swin_tiny_patch4_window7_224", {"skip_downsamples": 3}, "can skip 2: its next halving joins neighbours"),
        ("dla34", {"stem": "patch"}, "stem='patch' has a stride of 2, and base_layer.0 one of 1: use stem='point'"),
    ],
)
def test_what_cannot_be_skipped_or_patched_is_refused_in_a_sentence(name, options, words):
    with pytest.raises(InvalidInputError, match=words):
        create_model(name, **options)


def test_refused_skip_behind_a_new_stem_leaves_the_network_as_it_was():
    model = create_model("swin_tiny_patch4_window7_224")
    settings, stem = model.settings, model.patch_embed.proj
    with pytest.raises(InvalidInputError, match="can skip 2"):
        adapt_(model, Adaptation(stem="point", skip_downsamples=4), lambda: timm.create_model("swin_tiny_patch4_window7_224"))
    assert (model.settings, model.patch_embed.proj) == (settings, stem)
