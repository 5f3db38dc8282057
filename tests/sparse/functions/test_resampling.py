"""Padding and up-sampling, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import nn
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, UnsupportedError, image_to_plane, inflate
from i2p_zoo.sparse.geometry import Padding
from tests.helpers import check_on_plane, property_test, random_cloud, random_images
from tests.oracles import check_as_image, check_at_sites, randomised

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)
SHIFT = (-1, 1, -1, 1)

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


def test_padding_stays_beside_the_sites_of_a_cloud_until_they_are_moved_along_the_images_axes():
    x = random_cloud(2)
    for axis, shift in ((0, (0, 3, 1)), (1, (3, 0, 1)), (2, (3, 1, 0))):
        padded = F.pad(x.with_plan(axis=axis), (1, 2, 3, 4))
        assert padded.coords is x.coords
        assert padded.padding == Padding(rows=(3, 4), columns=(1, 2), zeros=True)
        assert F.pad(padded, (1, 1)).padding == Padding((3, 4), (2, 3), zeros=True)
        moved = padded.apply_padding()
        assert torch.equal(moved.coords, x.coords + torch.tensor([0, *shift]))
        assert moved.features is x.features
        assert moved.spatial_shape is None
        assert moved.padding == Padding()
        assert moved.apply_padding() is moved


def pooled(x, factor=2):
    return F.avg_pool2d(x, factor)


UPSAMPLINGS = {
    "by a factor": lambda x: F.interpolate(pooled(x), scale_factor=2),
    "by two factors": lambda x: F.interpolate(pooled(x), scale_factor=(2.0, 2.0), mode="nearest"),
    "to a size": lambda x: F.interpolate(pooled(x), size=(8, 12)),
    "to a size that is no multiple": lambda x: F.interpolate(pooled(x, 5), size=(8, 12)),
    "into a sum with a size that is no multiple": lambda x: x + F.interpolate(pooled(pooled(x), 3), size=x.shape[-2:]),
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
    padded = F.pad(x, (0, 2, 0, 2)).apply_padding()  # the same sites in a larger extent
    pooled(x)
    assert F.interpolate(pooled(padded), scale_factor=2).shape == (1, 2, 10, 10)


def test_up_sampling_is_refused_where_the_strided_layer_took_up_a_padding():
    for x in (image_to_plane(random_images(1, 2, 8, 8)), random_cloud(2)):
        for padding in ((2, 0, 0, 2), (1, 1, 1, 1), (-1, 1, -1, 1)):
            for y in (pooled(F.pad(x, padding)), F.pad(pooled(x), padding)):
                with pytest.raises(UnsupportedError, match="up-sampling by 2 needs the finer sites"):
                    F.interpolate(y, scale_factor=2)
                assert F.interpolate(y, scale_factor=1).stride == 2


def test_up_sampling_goes_back_to_the_layer_that_took_up_a_padding_and_no_further():
    check_on_plane(lambda x: F.interpolate(pooled(pooled(F.pad(x, (0, 1, 0, 1)))), scale_factor=2), random_images(2, 3, 7, 7))
    with pytest.raises(UnsupportedError, match="up-sampling by 4 needs the finer sites"):
        F.interpolate(pooled(pooled(F.pad(random_cloud(2), (0, 1, 0, 1)))), scale_factor=4)


def test_a_cloud_without_border_has_no_size_to_sample_to():
    with pytest.raises(UnsupportedError, match=r"\(8, 8\): a cloud without a border"):
        F.interpolate(pooled(random_cloud(2)), size=(8, 8))


BEFORE_A_MAXIMUM = {
    "all around": lambda x, value: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=value), 3, 2),
    "all around, stride 1": lambda x, value: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=value), 3, 1),
    "two all around": lambda x, value: F.max_pool2d(F.pad(x, (2, 2, 2, 2), value=value), 5, 2),
    "TensorFlow's": lambda x, value: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=value), 3, 2, ceil_mode=True),
    "before": lambda x, value: F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=value), 2, 1),
    "after, rounded up": lambda x, value: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=value), 2, 1, ceil_mode=True),
    "before, rounded up": lambda x, value: F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=value), 3, 2, ceil_mode=True),
    "columns only": lambda x, value: F.max_pool2d(F.pad(x, (0, 1), value=value), (1, 2), 1),
    "before a pool's own": lambda x, value: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=value), 5, 2, 1),
    "before nothing": lambda x, value: F.max_pool2d(F.pad(F.pad(x, (1, 1, 1, 1), value=value), (0, 0)), 3, 2),
    "before a crop": lambda x, value: F.max_pool2d(F.pad(F.pad(x, (1, 1), value=value), (0, 0, -1, -1)), 3, 1),
    "in two steps": lambda x, value: F.max_pool2d(F.pad(F.pad(x, (1, 1), value=value), (0, 0, 1, 1), value=value), 3, 2),
    "dilated": lambda x, value: F.max_pool2d(F.pad(x, (2, 2, 2, 2), value=value), 3, 1, dilation=2),
    "a crop before a border": lambda x, value: F.max_pool2d(F.pad(x, (-1, 2, -1, 2), value=value), 3, 2),
    "of folded channels": lambda x, value: F.max_pool2d(
        F.pad(torch.stack([x, x * 2], 1).sum(1), (1, 1), value=value), (1, 3), 1
    ),
}


@AXES
@pytest.mark.parametrize("value", [0, -math.inf])
@pytest.mark.parametrize("function", BEFORE_A_MAXIMUM.values(), ids=BEFORE_A_MAXIMUM.keys())
def test_zeros_around_the_image_take_part_in_a_maximum_and_minus_infinity_does_not(function, value, axis):
    for extents in ((6, 5), (7, 8)):
        images = -random_images(2, 4, *extents).abs() - 0.1
        assert bool((function(images, value) == 0).any()) == (value == 0)
        check_on_plane(lambda x: function(x, value), images, axis=axis)


@given(
    extents=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    pads=st.tuples(*[st.integers(-2, 2)] * 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.sampled_from([1, 2, 3, (2, 1)]),
    own=st.booleans(),
    ceil_mode=st.booleans(),
    how=st.sampled_from(["maximum", "maximum behind -inf", "average", "average of the image"]),
    axis=st.sampled_from("zyx"),
)
@property_test
def test_a_pool_behind_any_padding_is_that_of_the_image_at_each_site(extents, pads, kernel, stride, own, ceil_mode, how, axis):
    padding = tuple(k // 2 for k in kernel) if own and min(pads) >= 0 else 0
    assume(not (ceil_mode and min(pads[1], pads[3]) < 0))  # its window sees what was cut off behind
    assume(min(extents[0] + sum(pads[2:]), extents[1] + sum(pads[:2])) >= max(kernel))

    def function(x):
        x = F.pad(x, pads, value=-math.inf if how == "maximum behind -inf" else 0)
        if how.startswith("maximum"):
            return F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad=how == "average")

    check_at_sites(function, -random_images(2, 3, *extents).abs() - 0.1, axis)


CONVOLUTIONS = {
    "3x3": nn.Conv2d(3, 4, 3),
    "3x3/2": nn.Conv2d(3, 4, 3, 2),
    "2x2": nn.Conv2d(3, 4, 2, bias=False),
    "1x1/2": nn.Conv2d(3, 4, 1, 2),
    "1x1": nn.Conv2d(3, 4, 1),
    "5x5 depthwise": nn.Conv2d(3, 3, 5, groups=3),
    "1x3/2": nn.Conv2d(3, 4, (1, 3), (1, 2)),
    "3x3 dilated": nn.Conv2d(3, 4, 3, dilation=2),
}


@AXES
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 0, 1, 0), SHIFT, (-1, -1, 0, -2), (2, -1, -1, 2)], ids=str)
@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_behind_any_padding_is_that_of_the_image_at_each_site(layer, pads, axis):
    network = nn.Sequential(nn.ZeroPad2d(pads), randomised(layer.double()))
    for extents in ((7, 8), (8, 7)):
        check_at_sites(inflate(network, axis=axis), random_images(2, 3, *extents), axis, of_image=network)


PATHS = {
    "convolution": lambda: nn.Conv2d(3, 4, 1, stride=2, bias=False),
    "average": lambda: nn.AvgPool2d(1, stride=2, count_include_pad=False),
    "average, padding counted": lambda: nn.AvgPool2d(1, 2),
    "maximum": lambda: nn.MaxPool2d(1, 2),
}


class Shifted(nn.Module):
    """NASNet's reduction: a strided path beside one shifted by a pixel."""

    def __init__(self, make):
        super().__init__()
        self.straight, self.shifted = make(), nn.Sequential(nn.ZeroPad2d(SHIFT), make())

    def forward(self, x):
        return torch.cat([self.straight(x), self.shifted(x)], 1)


@AXES
@pytest.mark.parametrize("extents", [(8, 8), (7, 9), (8, 7), (1, 2)], ids=str)
@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS.keys())
def test_a_shifted_path_meets_the_straight_one(make, extents, axis):
    network = randomised(Shifted(make).double())
    images = random_images(2, 3, *extents)
    check_on_plane(inflate(network, axis=axis), images, axis=axis, of_image=network)
    x = image_to_plane(images, axis)
    layers = inflate(network, axis=axis)
    assert torch.equal(layers.straight(x).coords, layers.shifted(x).coords)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("make", PATHS.values(), ids=PATHS.keys())
def test_a_shifted_path_of_a_cloud_reads_the_next_row_and_column_and_meets_the_straight_one(make, axis):
    x = random_cloud(3, voxels=80).with_plan(axis=axis)
    layers = inflate(randomised(Shifted(make).double()), axis="zyx"[axis])
    straight, shifted = layers.straight(x), layers.shifted(x)
    assert torch.equal(straight.coords, shifted.coords)
    assert torch.equal(layers(x).features, torch.cat([straight.features, shifted.features], 1))
    moved = x.derive(x.features, coords=x.coords - torch.tensor([0, *(int(a != axis) for a in range(3))], dtype=torch.int32))
    again = layers.shifted[1](moved)
    value_of = {tuple(site): value for site, value in zip(again.coords.tolist(), again.features, strict=True)}
    for site, value in zip(shifted.coords.tolist(), shifted.features, strict=True):
        assert torch.equal(value, value_of.get(tuple(site), torch.zeros_like(value)))


def test_zeros_around_a_cloud_take_no_part():
    x = random_cloud(3)
    x = x.derive(-x.features.abs() - 0.1)
    for padded, plain in (
        (F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), F.max_pool2d(x, 3, 2, 1)),
        (F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1), F.max_pool2d(x, 3, 1, 1)),
        (F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), F.avg_pool2d(x, 3, 2, 1)),
        (F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 5, 2, 1, count_include_pad=False), F.avg_pool2d(x, 5, 2, 2)),
    ):
        assert torch.equal(padded.coords, plain.coords)
        assert torch.equal(padded.features, plain.features)


def test_only_a_window_takes_up_a_padding():
    calls = [lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x + x, lambda x: x.relu(), lambda x: x * 2, lambda x: x.mean(1)]
    for pads in ((1, 1), (0, 0, -1, 0)):
        for call in calls:
            check_as_image(lambda x, c=call, p=pads: c(F.pad(x, p)), IMAGES)
        for call in (*calls, lambda x: F.adaptive_max_pool2d(x, 1)):
            with pytest.raises(UnsupportedError, match=r"behind Padding\(.*only convolutions and pools"):
                call(F.pad(random_cloud(4), pads))


REFUSED = {
    "mirror padding": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), UnsupportedError, r"\(1, 1, 1, 1\).*'reflect'"),
    "padding by ones": (lambda x: F.pad(x, (1, 1), value=1.0), UnsupportedError, "value=1.0.*only zeros"),
    "padding away all": (lambda x: F.pad(x, (-3, -2)), InvalidInputError, r"\(-3, -2\) leaves the extent \(6, 0\)"),
    "bilinear to a size that is no multiple": (
        lambda x: F.interpolate(pooled(x), size=(6, 5), mode="bilinear"),
        UnsupportedError,
        "'bilinear'",
    ),
    "up-sampling by a fraction": (lambda x: F.interpolate(pooled(x), scale_factor=1.5), UnsupportedError, r"\[1\.5\]"),
    "two factors": (lambda x: F.interpolate(pooled(x), scale_factor=(2, 3)), UnsupportedError, r"\[2.*3.*\]"),
    "up-sampling to an odd size": (
        lambda x: F.interpolate(pooled(x), size=(7, 5)),
        UnsupportedError,
        "history has no such extent",
    ),
    "down-sampling": (lambda x: F.interpolate(x, scale_factor=0.5), UnsupportedError, r"\[0\.5\]"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(IMAGES))


@pytest.mark.parametrize(
    ("pads", "padding"), [((-1, 0), 1), ((0, -1), 1), ((0, 0, -1, 1), 1), ((1, 1, 1, -1), (1, 0)), ((-2, 2), (0, 1))], ids=str
)
def test_a_padded_pool_sees_nothing_of_what_was_cut_off_and_a_convolution_is_refused(pads, padding):
    for pool in (F.max_pool2d, F.avg_pool2d):
        check_at_sites(lambda x, pool=pool: pool(F.pad(x, pads), 3, 2, padding), -IMAGES.abs(), "z")
    layer = inflate(nn.Conv2d(4, 4, 3, 2, padding, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match=r"A window padded by .*behind Padding\(.*would see what was cut off"):
        layer(F.pad(image_to_plane(IMAGES), pads))


def test_a_window_padded_along_the_other_side_of_a_crop_is_taken():
    check_on_plane(lambda x: F.max_pool2d(F.pad(x, (-1, 0)), (3, 1), (1, 1), (1, 0)), IMAGES)
    check_on_plane(lambda x: F.avg_pool2d(F.pad(x, (0, 0, 0, -1)), (1, 3), (1, 1), (0, 1)), IMAGES)


WRONG = {
    "a window rounded up behind a crop": lambda x: F.max_pool2d(F.pad(x, (0, -1)), 2, 2, ceil_mode=True),
    "an average rounded up behind a crop": lambda x: F.avg_pool2d(F.pad(x, (0, 0, 0, -1)), 2, 2, ceil_mode=True),
    "a border behind a crop": lambda x: F.pad(F.pad(x, (-1, 0)), (1, 0)),
    "nothing behind a border of minus infinity": lambda x: F.max_pool2d(
        F.pad(F.pad(x, (1, 1), value=-math.inf), (0, 0)), (1, 3), 1
    ),
    "a sum with a border of nothing": lambda x: x + F.pad(x, (0, 0, 0, 0)),
    "up-sampling behind a border of nothing": lambda x: F.interpolate(pooled(F.pad(x, (0, 0))), scale_factor=2),
}


@pytest.mark.parametrize("function", WRONG.values(), ids=WRONG.keys())
def test_padding_in_company_is_that_of_the_image(function):
    check_on_plane(function, -random_images(2, 3, 6, 6).abs() - 0.1)


@pytest.mark.parametrize("function", [lambda x: x + 1, torch.sigmoid, torch.exp, lambda x: x + torch.ones(4, 1, 1)])
def test_what_makes_something_of_zeros_makes_it_of_those_of_a_padding_and_is_refused_for_a_cloud(function):
    check_as_image(lambda x: function(F.pad(x, (1, 1))), IMAGES)
    with pytest.raises(UnsupportedError):
        function(F.pad(random_cloud(4), (1, 1)))


def test_channels_are_padded_as_those_of_images():
    check_as_image(lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), IMAGES)
    check_as_image(lambda x: F.pad(x, (1, 2, 0, -1, 2, 0), value=0), IMAGES)


SKIPPED = {
    "TensorFlow's maximum": MaxPool2dSame(3, 2),
    "TensorFlow's average": AvgPool2dSame(3, 2),
    "a shifted path": nn.Sequential(nn.ZeroPad2d(SHIFT), nn.AvgPool2d(1, 2)),
}


@pytest.mark.parametrize("layer", SKIPPED.values(), ids=SKIPPED.keys())
def test_a_skipped_stride_behind_its_padding_keeps_the_sites(layer):
    x = random_cloud(3).with_plan(skip_downsamples=1)
    assert torch.equal(layer(x).coords, F.avg_pool2d(x, 3, 2, 1).coords)
