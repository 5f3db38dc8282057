"""Settings: words and numbers out of range are refused with their value, and a change is a copy."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.inflation.settings import Settings

BAD_VALUES = {
    "inflation": ["centre", "", "Copy", None],
    "axis": ["w", "", "zy", 0, None],
    "depth": [0, -1, 2.5, "3", True],
    "stem": ["cloud", "", "Image", 3, None],
    "skip_downsamples": [-1, 1.5, "2", None, True],
    "voxel_size": [0, -0.05, float("nan"), float("inf"), np.float32("nan"), 10**400, "0.1", True, None],
    "features": ["colour", "", "xyz,colour", ["xyz", "rgb"], None],
    "preset": ["paper", "Image2Point", None],
    "rgb_mean": [0.5, "0.5", (0.5, 0.5), (0.5, 0.5, "a"), (0.5, 0.5, float("nan")), (True, 0.5, 0.5)],
    "rgb_std": [1, (0.5, 0.5, 0), (0.5, 0.5, -1), (0.5, 0.5, 0.5, 0.5), (0.5, 0.5, float("inf"))],
    "normalization": ["unit", "Unit_sphere", None],
    "canvas": [224, (224,), (224, 0), (224, 224.0), (True, 224), "224x224", (1, 2, 3)],
}
GOOD_VALUES = {
    "inflation": ["center", "average", "copy"],
    "axis": ["z", "y", "x"],
    "depth": [None, 1, 7],
    "stem": ["image", "point", "patch"],
    "skip_downsamples": [0, 5],
    "voxel_size": [1e-9, 0.05, 1e9],
    "features": ["xyz", "xyz,rgb", "xyz, normals, extra", "ones"],
    "preset": ["", "image2point"],
    "rgb_mean": [None, (0.485, 0.456, 0.406), (0.0, 0.0, -1.0)],
    "rgb_std": [None, (0.229, 0.224, 0.225), (1.0, 1.0, 255.0)],
    "normalization": ["", "unit_sphere", "centred"],
    "canvas": [None, (224, 224), (1, 518)],
}


def pairs(values_of_field):
    return [(field, value) for field, values in values_of_field.items() for value in values]


def test_every_field_has_its_bad_and_good_values():
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert BAD_VALUES.keys() == GOOD_VALUES.keys() == fields


@pytest.mark.parametrize(("field", "value"), pairs(BAD_VALUES), ids=lambda part: repr(part)[:20])
def test_bad_value_is_quoted_with_its_field(field, value):
    for call in (lambda: Settings(**{field: value}), lambda: Settings().changed(**{field: value})):
        with pytest.raises(InvalidInputError, match=f"{field}`.*{re.escape(f'got {value!r}.')}$"):
            call()


@pytest.mark.parametrize(("field", "value"), pairs(GOOD_VALUES), ids=repr)
def test_good_value_is_kept_and_comes_back_from_json(field, value):
    settings = Settings(**{field: value})
    assert getattr(settings, field) == value
    assert Settings(**json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize("size", [np.float32(0.25), np.float64(0.25), np.int64(2), np.uint8(2), 2], ids=repr)
def test_voxel_size_of_numpy_or_a_whole_number_becomes_a_float(size):
    settings = Settings(voxel_size=size)
    assert type(settings.voxel_size) is float
    assert settings.voxel_size == size
    assert settings == Settings(voxel_size=float(size))
    json.dumps(settings.to_dict())


def test_a_single_precision_voxel_size_is_what_it_is_written_as():
    assert Settings(voxel_size=np.float32(0.05)).voxel_size == 0.05
    assert Settings(voxel_size=np.float32(0.1) * np.float32(3)).voxel_size == 0.3


def test_settings_are_changed_in_a_copy():
    settings = Settings()
    changed = settings.changed(stem="point", voxel_size=0.1)
    assert (settings.stem, settings.voxel_size) == ("image", 0.05)
    assert changed.to_dict() == {
        "inflation": "center",
        "axis": "z",
        "depth": None,
        "stem": "point",
        "skip_downsamples": 0,
        "voxel_size": 0.1,
        "features": "xyz",
        "preset": "",
        "rgb_mean": None,
        "rgb_std": None,
        "normalization": "",
        "canvas": None,
    }


def test_settings_cannot_be_assigned_to():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().stem = "point"
