"""The sparse blur pool against timm's on images, and against plain Python on clouds."""

from __future__ import annotations

import pytest
import torch
from timm.layers.blur_pool import BlurPool2d
from torch.nn import functional as F

from i2p_zoo import SparseTensor, UnsupportedError, image_to_plane
from i2p_zoo.layers.blur_pool import SparseBlurPool3d
from i2p_zoo.layers.registry import find_builder
from tests.helpers import (
    check_on_plane,
    make_window,
    random_cloud,
    random_images,
    relative_error,
    seeded,
    strided_sites,
    window_rows,
)

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
EXTENTS = pytest.mark.parametrize("extents", [(8, 8), (7, 9), (9, 6)], ids=str)

BLURS = {
    "3/2": lambda: BlurPool2d(3),
    "3/2 of any channels": lambda: BlurPool2d(None),
    "5/2": lambda: BlurPool2d(3, filt_size=5),
    "3/1": lambda: BlurPool2d(3, stride=1),
    "2/1": lambda: BlurPool2d(3, filt_size=2, stride=1),
    "3/2 zeros": lambda: BlurPool2d(3, pad_mode="constant"),
    "5/2 zeros": lambda: BlurPool2d(3, filt_size=5, pad_mode="constant"),
}


def blurred(leaf, axis="z"):
    return find_builder(leaf)(leaf, axis=axis, depth=None, inflation="center")


@AXES
@EXTENTS
@pytest.mark.parametrize("make", BLURS.values(), ids=BLURS.keys())
def test_blur_pool_of_a_plane_is_that_of_the_image(make, extents, axis):
    leaf = make().double()
    check_on_plane(blurred(leaf, axis), random_images(2, 3, *extents), axis=axis, of_image=leaf)


def test_blur_pool_mirrors_the_voxels_there_are():
    # Holes in the plane: torch mirrors their zeros, and so must the sparse layer.
    images = random_images(2, 3, 8, 9) * (torch.rand(2, 1, 8, 9, generator=seeded(1)) < 0.4)
    x = image_to_plane(images)
    kept = (x.features != 0).any(1)
    x = SparseTensor(x.features[kept], x.coords[kept], batch_size=2, spatial_shape=x.spatial_shape)
    leaf = BlurPool2d(3).double()
    out, expected = blurred(leaf)(x), leaf(images)
    at = out.coords.long()
    assert len(out.coords) < 2 * 4 * 5
    assert relative_error(out.features, expected[at[:, 0], :, at[:, 2], at[:, 3]]) < 1e-12


def test_blur_pool_of_a_cloud_averages_the_active_voxels_by_its_filter():
    x = random_cloud(3, voxels=60)
    layer = blurred(BlurPool2d(3).double())
    out = layer(x)
    assert [tuple(site) for site in out.coords.tolist()] == strided_sites(x.coords, (2, 2, 2))
    window = make_window((1, 3, 3), (2, 2, 2))
    filters = [a * b for a in (1, 2, 1) for b in (1, 2, 1)]
    for found, taps in zip(out.features, window_rows(x.coords, out.coords, window), strict=True):
        active = [(weight, row) for weight, row in zip(filters, taps, strict=True) if row >= 0]
        total = sum(weight * x.features[row] for weight, row in active)
        expected = total / sum(weight for weight, _ in active) if active else torch.zeros(3)
        assert torch.allclose(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_blur_pool_of_a_constant_cloud_is_that_constant():
    x = SparseTensor(torch.full((8, 2), 3.0), torch.cartesian_prod(*[torch.arange(2)] * 4)[:8], batch_size=1)
    assert torch.allclose(blurred(BlurPool2d(2))(x).features, torch.tensor(3.0))


def test_blur_pool_gives_its_own_result_whatever_ran_before():
    images, layer = random_images(1, 2, 8, 8), blurred(BlurPool2d(2, stride=1).double())
    padding = (0, 2, 0, 2)  # keeps the sites, as the same object, and grows the extent
    expected = layer(F.pad(image_to_plane(images), padding))
    x = image_to_plane(images)
    layer(x)
    found = layer(F.pad(x, padding))
    assert found.spatial_shape == expected.spatial_shape
    assert torch.equal(found.features, expected.features)


def test_blur_pools_filter_stays_out_of_the_checkpoint():
    layer = blurred(BlurPool2d(3))
    assert isinstance(layer, SparseBlurPool3d)
    assert not layer.state_dict()


@pytest.mark.parametrize(("leaf", "message"), [(BlurPool2d(3, pad_mode="replicate"), "pad_mode='replicate'")])
def test_borders_that_have_no_sparse_counterpart_are_refused(leaf, message):
    with pytest.raises(UnsupportedError, match=message):
        find_builder(leaf)(leaf, axis="z", depth=None, inflation="center")
