"""The table of 2D leaves: which types are replaced, kept and supported."""

from __future__ import annotations

import pytest
import torch
from timm.layers.blur_pool import BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional as F

from i2p_zoo import I2PError, InvalidInputError, SparseConv3d, SparseTensor, UnsupportedError, image_to_plane, keep, replaces
from i2p_zoo.layers.blur_pool import SparseBlurPool3d
from i2p_zoo.layers.registry import _builders, find_builder, is_supported, supported_types
from tests.helpers import (
    check_on_plane,
    make_window,
    random_cloud,
    random_images,
    relative_error,
    seeded,
    strided_sites,
    window_rows,



class OwnConvolution(nn.Conv2d):
    pass


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_types_are_matched_exactly():
    leaf = OwnConvolution(3, 4, 3)
    assert find_builder(leaf) is None
    assert not is_supported(leaf)
    assert find_builder(nn.Conv2d(3, 4, 3)) is find_builder(Conv2dSame(3, 4, 3)) is not None
    assert is_supported(nn.Conv2d(3, 4, 3))


def test_a_module_without_tensors_of_its_own_is_supported_and_one_with_is_not():
    assert is_supported(nn.ReLU())
    assert is_supported(nn.Sequential(Scale()))
    assert is_supported(nn.BatchNorm2d(3))
    assert not is_supported(Scale())
    assert find_builder(nn.BatchNorm2d(3)) is None


def test_a_leaf_type_is_registered_once():
    assert f"{__name__}.OwnConvolution" not in supported_types()
    try:

        @replaces(OwnConvolution)
        def build(leaf, axis, depth, inflation):
            return SparseConv3d(leaf.in_channels, leaf.out_channels, 3)

        keep(Scale)
        assert find_builder(OwnConvolution(3, 4, 3)) is build
        assert is_supported(OwnConvolution(3, 4, 3))
        assert is_supported(Scale())
        assert f"{__name__}.OwnConvolution" in supported_types()
        for again in (lambda: replaces(OwnConvolution)(build), lambda: keep(OwnConvolution), lambda: replaces(Scale)(build)):
            with pytest.raises(I2PError, match="registered as a 2D leaf already"):
                again()
        with pytest.raises(I2PError, match=r"torch\.nn\.modules\.conv\.Conv2d is registered"):
            keep(nn.ReLU, nn.Conv2d)
        assert nn.ReLU not in _builders, "nothing is registered where one type was"
    finally:
        for kind in (OwnConvolution, Scale, nn.ReLU):
            _builders.pop(kind, None)
    assert supported_types() == sorted(supported_types())
