"""Reductions over sites and channels, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import I2PError, UnsupportedError, image_to_plane
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import check_as_image, check_channels_last, check_on_samples, last, unequal_cloud

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)

REDUCTIONS = {
    "height and width": (2, 3),
    "height and width from behind": (-1, -2),
    "a list": [2, 3],
    "channels": 1,
    "channels in a tuple": (1,),
    "channels from behind": -3,
    "all but the batch": (1, 2, 3),
}


@pytest.mark.parametrize("keepdim", [False, True], ids=["", "keepdim"])
@pytest.mark.parametrize("dims", REDUCTIONS.values(), ids=REDUCTIONS.keys())
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_dimensions_is_that_of_the_image(how, dims, keepdim):
    check_on_plane(lambda x: getattr(x, how)(dims, keepdim), IMAGES)
    check_on_plane(lambda x: getattr(torch, how)(x, dim=dims, keepdim=keepdim), IMAGES)


@pytest.mark.parametrize("dims", [1, 2, (1, 2), (3, 4), (2, 3, 4), (1, -1, -2), (1, 2, 3, 4), -3], ids=str)
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_folded_channels_is_that_of_the_image(how, dims):
    for keepdim in (False, True):
        check_on_plane(lambda x, keep=keepdim: getattr(x.reshape(2, 2, 3, 3, 4), how)(dims, keep), random_images(2, 6, 3, 4))


def test_a_dtype_asked_for_is_given():
    x = image_to_plane(IMAGES.float())
    expected = IMAGES.float().mean((2, 3), dtype=torch.float64)
    assert x.mean((2, 3), dtype=torch.float64).dtype == expected.dtype
    assert x.sum(1, dtype=torch.float64).dtype == torch.float64
    assert F.softmax(x, 1, dtype=torch.float64).dtype == torch.float64


NORMS = {
    "norm": lambda x, dim, keepdim: x.norm(p=2, dim=dim, keepdim=keepdim),
    "norm by place": lambda x, dim, keepdim: x.norm(2.0, dim, keepdim),
}
VARIANCES = {
    "var": lambda x, dim, keepdim: x.var(dim, keepdim=keepdim),
    "biased var": lambda x, dim, keepdim: x.var(dim=dim, unbiased=False, keepdim=keepdim),
    "biased var by place": lambda x, dim, keepdim: x.var(dim, False, keepdim),
    "torch.var unbiased": lambda x, dim, keepdim: torch.var(x, dim=dim, unbiased=True, keepdim=keepdim),
    "torch.var": lambda x, dim, keepdim: torch.var(x, dim, keepdim=keepdim),
    "var corrected by 0": lambda x, dim, keepdim: x.var(dim, correction=0, keepdim=keepdim),
    "var corrected by 1": lambda x, dim, keepdim: x.var(dim, correction=1, keepdim=keepdim),
    "torch.var corrected by 2": lambda x, dim, keepdim: torch.var(x, dim=dim, correction=2, keepdim=keepdim),
}
SIMPLE = {how: lambda x, dim, keepdim, how=how: getattr(x, how)(dim, keepdim) for how in ("mean", "sum", "amax")}
REDUCED = {**SIMPLE, **NORMS, **VARIANCES}
KEEPDIM = pytest.mark.parametrize("keepdim", [False, True], ids=["", "keepdim"])
FRONT = [(2, 3), (-1, -2), 1, (1,), -3, (1, 2, 3)]
BEHIND = [(1, 2), (-2, -3), 3, (-1,), -1, (1, 2, 3)]


@KEEPDIM
@pytest.mark.parametrize("dim", FRONT, ids=str)
@pytest.mark.parametrize("function", [*NORMS.values(), *VARIANCES.values()], ids=[*NORMS, *VARIANCES])
def test_variance_and_norm_are_those_of_the_image(function, dim, keepdim):
    check_on_plane(lambda x: function(x, dim, keepdim), IMAGES)


@KEEPDIM
@pytest.mark.parametrize("dim", BEHIND, ids=str)
@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_reduction_with_channels_behind_is_that_of_the_image(function, dim, keepdim):
    check_channels_last(lambda x: function(x, dim, keepdim), IMAGES)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_reduction_of_a_plane_along_any_axis_is_that_of_the_image(function, axis):
    for keepdim in (False, True):
        check_on_plane(lambda x, keep=keepdim: function(x, (2, 3), keep), IMAGES, axis=axis)
        check_channels_last(lambda x, keep=keepdim: function(x, (1, 2), keep), IMAGES, axis=axis)


@pytest.mark.parametrize("dim", [1, 2, (1, 2), (3, 4), (2, 3, 4), (1, -1, -2), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("function", [REDUCED["norm"], *VARIANCES.values()], ids=["norm", *VARIANCES])
def test_variance_and_norm_over_folded_channels_are_those_of_the_image(function, dim):
    for keepdim in (False, True):
        check_on_plane(lambda x, keep=keepdim: function(x.reshape(2, 3, 4, 3, 4), dim, keep), random_images(2, 12, 3, 4))


@pytest.mark.parametrize("dim", [3, -1, (3, 4), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_reduction_over_folded_channels_behind_is_that_of_the_image(function, dim):
    for keepdim in (False, True):
        check_channels_last(lambda x, keep=keepdim: function(x.reshape(2, 3, 4, 3, 4), dim, keep), random_images(2, 12, 3, 4))


@KEEPDIM
@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_reduction_of_a_cloud_is_that_of_the_voxels_of_each_sample(function, keepdim):
    for dim in (FRONT[0], FRONT[2], FRONT[5]):
        check_on_samples(lambda x, d=dim: function(x, d, keepdim), unequal_cloud(4))
    for dim in (BEHIND[0], BEHIND[2], BEHIND[5]):
        check_on_samples(lambda x, d=dim: function(last(x), d, keepdim), unequal_cloud(4))
    for dim in ((3, 4), (2, 3, 4)):
        check_on_samples(lambda x, d=dim: function(torch.stack([x, x.exp()], 1), d, keepdim), unequal_cloud(4))


@pytest.mark.parametrize("function", NORMS.values(), ids=NORMS.keys())
def test_the_norm_of_zeros_is_zero_and_so_is_its_gradient(function):
    images = IMAGES.clone()
    images[:, 1] = 0
    images[1, :, 2, 3] = 0
    for dim in ((2, 3), 1, (1, 2, 3)):
        check_on_plane(lambda x, d=dim: function(x, d, True), images)
    check_channels_last(lambda x: function(x, (1, 2), False), images)
    x = random_cloud(2)
    zeros = torch.zeros_like(x.features, requires_grad=True)
    found = function(x.derive(zeros), (2, 3), False)
    found.sum().backward()
    assert found.tolist() == [[0, 0], [0, 0]]
    assert zeros.grad.count_nonzero() == 0


def test_the_norm_is_euclidean_by_default():
    for p in ({}, {"p": "fro"}, {"p": None}):
        check_on_plane(lambda x, p=p: x.norm(dim=(2, 3), **p), IMAGES)
        check_on_plane(lambda x, p=p: x.norm(dim=1, keepdim=True, **p), IMAGES)


def test_the_variance_of_many_equal_values_is_not_lost_beside_their_mean():
    check_on_plane(lambda x: x.var((2, 3), unbiased=False), IMAGES * 1e-3 + 1e6, tolerance=1e-6)


@pytest.mark.parametrize("dim", [(2, 3), 1], ids=str)
def test_maximum_sends_its_gradient_to_each_of_equal_values(dim):
    check_on_plane(lambda x: x.amax(dim), IMAGES.round())


REFUSED = {
    "the mean of all": (lambda x: x.mean(), UnsupportedError, "`mean` over dimensions None"),
    "the sum over samples": (lambda x: x.sum(0), UnsupportedError, "`sum` over dimensions 0.*batch stays"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(IMAGES))


REFUSED_TOO = {
    "the maximum of all": lambda x: x.max(),
    "the mean over no dimensions": lambda x: x.mean(()),
}


@pytest.mark.parametrize("call", REFUSED_TOO.values(), ids=REFUSED_TOO.keys())
def test_odd_calls_are_refused_as_unsupported_too(call):
    with pytest.raises(I2PError):
        call(image_to_plane(IMAGES))


@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_the_batch_is_not_reduced_and_height_or_width_alone_on_tokens_only(function):
    for x in (image_to_plane(IMAGES), random_cloud(4)):
        for dim in (0, (0, 2, 3), (0, 1), (0, 1, 2, 3), ()):
            with pytest.raises(UnsupportedError, match=r"over dimensions .*height and width go together, the batch stays"):
                function(x, dim, False)
    for dim in (2, 3, -1, (1, 2), (1, 3)):
        check_as_image(lambda x, d=dim: function(x, d, False), IMAGES)
        check_as_image(lambda x, d=dim: function(x, d, True), IMAGES)
        with pytest.raises(UnsupportedError, match=r"over dimensions .*height and width go together, the batch stays"):
            function(random_cloud(4), dim, False)
    for dim in (1, 2, -2, (1, 3), (2, 3)):
        check_as_image(lambda x, d=dim: function(last(x), d, False), IMAGES)


@pytest.mark.parametrize("function", REDUCED.values(), ids=REDUCED.keys())
def test_a_reduction_behind_a_padding_counts_its_zeros_and_is_refused_for_a_cloud(function):
    for pads, dims in (((1, 0), (2, 3)), ((0, -1), (1, 2, 3))):
        check_as_image(lambda x, p=pads, d=dims: function(F.pad(x, p), d, False), IMAGES)
        with pytest.raises(UnsupportedError, match=r"behind Padding\(.*only convolutions and pools"):
            function(F.pad(random_cloud(4), pads), dims, False)


def test_the_maximum_over_rows_is_the_images():
    check_as_image(lambda x: x.max(2).values, IMAGES)
    with pytest.raises(UnsupportedError, match="`max` along dimension 2"):
        random_cloud(4).max(2)


@pytest.mark.parametrize("p", [1, float("inf"), "nuc", 0], ids=str)
def test_other_norms_are_refused(p):
    with pytest.raises(UnsupportedError, match=r"`norm` .*p=.*only the Euclidean norm"):
        image_to_plane(IMAGES).norm(p, dim=(2, 3))


def test_norm_is_called_by_torch_too():
    check_on_plane(lambda x: torch.norm(x, dim=(2, 3)), IMAGES)
    check_on_plane(lambda x: torch.norm(x, 2.0, 1, True), IMAGES)


def test_a_padding_by_nothing_hinders_no_reduction():
    check_on_plane(lambda x: F.pad(x, (0, 0, 0, 0)).mean((2, 3)), IMAGES)


@pytest.mark.parametrize("function", [SIMPLE["mean"], NORMS["norm"], VARIANCES["var"]], ids=["mean", "norm", "var"])
def test_a_mean_of_half_precision_does_not_overflow_before_it_is_divided(function):
    images = (random_images(1, 2, 30, 30).abs() * 100 + 100).half()
    found, expected = function(image_to_plane(images), (2, 3), False), function(images, (2, 3), False)
    assert relative_error(found, expected) < 1e-2
