"""Nearest up-sampling, onto the sites that a tensor was strided from."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, UnsupportedError, image_to_plane
from i2p_zoo.sparse.upsampling import upsample_nearest
from tests.helpers import force_torch_path, random_cloud, random_images


@pytest.fixture(autouse=True, params=["numba", "torch"])
def path(request, monkeypatch):
    """The CPU's way and a device's."""
    if request.param == "torch":
        force_torch_path(monkeypatch)


def halved(x, times=1):
    for _ in range(times):
        x = F.avg_pool2d(x, 2)
    return x


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("low", [-7, 0])
def test_each_fine_voxel_gets_the_features_of_the_coarse_voxel_that_holds_it(low, steps):
    x = random_cloud(3, voxels=60, extent=8, low=low)
    fine = halved(x)
    coarse = halved(fine, steps)
    up = upsample_nearest(coarse, 2**steps)
    assert up.coords is fine.coords
    assert (up.stride, up.plan) == (fine.stride, fine.plan)
    value_of = {tuple(site): row for site, row in zip(coarse.coords.tolist(), coarse.features, strict=True)}
    for (b, *site), found in zip(fine.coords.tolist(), up.features, strict=True):
        assert torch.equal(found, value_of[(b, *(c // 2**steps for c in site))])


def test_up_sampling_undoes_skipped_downsamples_by_their_own_factors():
    x = random_cloud(2, voxels=60, extent=8).with_plan(skip_downsamples=1)
    kept, coarse = F.max_pool2d(x, 2), F.max_pool2d(F.max_pool2d(x, 2), 2)
    assert (kept.stride, coarse.stride, coarse.plan.level) == (1, 2, 2)
    once = upsample_nearest(coarse, 2)
    assert (once.coords is kept.coords, once.stride, once.plan.level) == (True, 1, 1)
    twice = upsample_nearest(once, 2)
    assert (twice.coords is kept.coords, twice.stride, twice.plan.level) == (True, 1, 0)
    at_once = upsample_nearest(coarse, 4)
    assert (at_once.coords is kept.coords, at_once.stride, at_once.plan.level) == (True, 1, 0)
    assert torch.equal(at_once.features, twice.features)


def test_up_sampling_without_history_or_by_another_factor_is_refused():
    x = random_cloud(2, voxels=60, extent=8)
    by_four, unequal = F.max_pool2d(x, 4), F.max_pool2d(x, 2, (2, 1))
    for y, factor, message in (
        (x, 2, r"up-sampling by 2.*\(1, 1, 1\).*strided layer"),
        (halved(x), 4, r"by 4.*\(2, 2, 2\)"),
        (by_four, 2, r"by 2 does not undo strides of \(4, 4, 4\)"),
        (unequal, 2, r"by 2 does not undo strides of \(2, 2, 1\)"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            upsample_nearest(y, factor)
    with pytest.raises(InvalidInputError, match="positive whole number; got 0"):
        upsample_nearest(halved(x), 0)


def test_up_sampling_onto_cropped_voxels_names_the_first():
    cropped = F.max_pool2d(image_to_plane(random_images(1, 1, 5, 4)), 2)
    with pytest.raises(UnsupportedError, match=r"fine voxel \[0, 0, 4, 0\] was cropped"):
        upsample_nearest(cropped, 2)


def test_gradcheck():
    x = random_cloud(2, voxels=12, extent=3)
    assert gradcheck(lambda features: upsample_nearest(halved(x.derive(features)), 2).features, x.features.requires_grad_())
