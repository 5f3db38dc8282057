"""Colours of any type by their range: one rule for files and for clouds in memory, and doubt is refused with its readings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError, voxelize
from i2p_zoo.data import CloudSet
from i2p_zoo.data.files.arrays import to_bytes
from i2p_zoo.sparse.colors import full_brightness

POINTS = np.arange(9.0).reshape(3, 3)
BYTES = np.array([[0, 51, 255], [10, 20, 30], [102, 204, 153]])
FRACTIONS = BYTES / 255


def features(rgb, **keywords):
    return voxelize({"points": POINTS, "rgb": rgb}, 1.0, "rgb", **keywords).features.numpy()


CLEAR = {
    "uint8": BYTES.astype(np.uint8),
    "int16": BYTES.astype(np.int16),
    "int32": BYTES.astype(np.int32),
    "int64": BYTES,
    "uint32": BYTES.astype(np.uint32),
    "float16 bytes": BYTES.astype(np.float16),
    "float32 bytes": BYTES.astype(np.float32),
    "float64 bytes": BYTES.astype(np.float64),
    "uint16": (BYTES * 257).astype(np.uint16),
    "float32 fractions": FRACTIONS.astype(np.float32),
    "float64 fractions": FRACTIONS,
    "blended fractions": np.where(BYTES == 255, 1.0000005, FRACTIONS),
    "blended bytes": np.where(BYTES == 255, 255.0001, BYTES),
    "torch.uint16": torch.from_numpy((BYTES * 257).astype(np.uint16)),
    "torch.bfloat16": torch.from_numpy(FRACTIONS).to(torch.bfloat16),
}


@pytest.mark.parametrize("rgb", CLEAR.values(), ids=CLEAR)
def test_one_colour_is_one_feature_whatever_its_type(rgb):
    tolerance = 4e-3 if getattr(rgb, "dtype", None) == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(features(rgb), FRACTIONS, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in CLEAR if not name.startswith("torch")])
def test_files_are_read_by_the_same_rule(name):
    assert to_bytes(CLEAR[name]).tolist() == BYTES.tolist()


DOUBTFUL = {
    "fractions beyond 1": (FRACTIONS * 1.5, "fractions brighter than 1, or dark colours of 0 to 255"),
    "light beyond 1": (FRACTIONS * 8, "fractions brighter than 1"),
    "bytes in 16 bits": (BYTES.astype(np.uint16), "0 to 255 in 16 bits, or dark ones of 0 to 65535"),
    "torch's 16 bits": (torch.from_numpy(BYTES.astype(np.uint16)), "uint16 from 0 to 255"),
    "16 bits in 32": (BYTES * 257, "0 to 65535, or of 0 to 255 with faulty"),
    "16 bits in floats": (BYTES * 257.0, "0 to 65535, or of 0 to 255 with faulty"),
    "beyond bytes": (BYTES + 45, "from 45 to 300"),
    "zeros and ones": (np.eye(3, dtype=int), "fractions, each 0 or full, or all but black"),
    "below zero": (FRACTIONS * 2 - 1, "below 0.*standardised already"),
    "bytes cast to int8": (BYTES.astype(np.uint8).astype(np.int8), "below 0: a wider type was cast"),
    "halves in int8": (np.full((3, 3), 100, np.int8), "halves of 0 to 255, or 127"),
    "NaN": (FRACTIONS * np.nan, "9 NaN or infinite values"),
    "with alpha": (np.zeros((3, 4), np.uint8), r"must be \(3, 3\); got \(3, 4\)"),
}


@pytest.mark.parametrize(("rgb", "message"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_can_be_read_in_two_ways_is_refused_with_both(rgb, message):
    with pytest.raises(InvalidInputError, match=f"(?s)`rgb` of cloud 0.*{message}"):
        features(rgb)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int64, np.float32])
def test_black_is_black_in_any_type(dtype):
    assert not features(np.zeros((3, 3), dtype)).any()


def test_a_dark_cloud_of_floats_among_bright_ones_is_in_doubt():
    dark, bright = {"points": POINTS, "rgb": FRACTIONS}, {"points": POINTS, "rgb": BYTES * 1.0}
    with pytest.raises(InvalidInputError, match="cloud 0 reaches 255 and that of cloud 1 does not exceed 1"):
        voxelize([bright, dark], 1.0, "rgb")
    black = {"points": POINTS, "rgb": np.zeros((3, 3))}
    byte = {"points": POINTS, "rgb": BYTES.astype(np.uint8)}
    x = voxelize([bright, black, byte], 1.0, "rgb")
    np.testing.assert_allclose(x.features[:3], FRACTIONS, atol=1e-6)
    np.testing.assert_allclose(x.features[6:], FRACTIONS, atol=1e-6)


def test_colours_are_standardised_as_timm_does():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (FRACTIONS - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(features(BYTES, rgb_mean=mean, rgb_std=std), expected, rtol=1e-5)
    np.testing.assert_allclose(features(FRACTIONS, rgb_mean=mean, rgb_std=std), expected, rtol=1e-5)


def test_a_set_decides_the_range_of_all_its_clouds_once():
    points, labels = np.stack([POINTS, POINTS]).astype(np.float32), np.array([0, 1])
    bright = CloudSet(points, labels, ("a", "b"), rgb=np.stack([BYTES * 1.0, np.zeros((3, 3))]))
    np.testing.assert_allclose(bright.cloud(0)["rgb"], FRACTIONS, atol=1e-6)
    with pytest.raises(InvalidInputError, match="dark colours of 0 to 255"):
        CloudSet(points, labels, ("a", "b"), rgb=[BYTES * 1.0, np.full((3, 3), 0.25)])
    assert CloudSet(points, labels, ("a", "b"), rgb=[BYTES.astype(np.uint8)] * 2).cloud(0)["rgb"].dtype == np.uint8
    wide = CloudSet(points, labels, ("a", "b"), rgb=[(BYTES * 257).astype(np.uint16)] * 2)
    np.testing.assert_allclose(wide.cloud(1)["rgb"], FRACTIONS, atol=1e-6)


def test_gradients_reach_colours():
    rgb = torch.from_numpy(FRACTIONS).requires_grad_()
    voxelize({"points": torch.from_numpy(POINTS), "rgb": rgb}, 1.0, "rgb", rgb_std=(0.5, 0.5, 0.25)).features.sum().backward()
    assert rgb.grad.tolist() == [[2, 2, 4]] * 3


def test_the_rule_names_what_it_saw():
    with pytest.raises(InvalidInputError, match=r"colours are int32 from 3 to 300; expected 0 to 255.*Give uint8, or floats"):
        full_brightness("int32", 3, 300, True)
