"""Arrays of numpy as clouds, by the names that data sets use."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.arrays import standard_arrays
from i2p_zoo.data.files.cloud_files import read_cloud

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(50, 3)).astype(np.float32)
NORMALS = (POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)).astype(np.float32)
RGB = RANDOM.integers(0, 256, (50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("points", "rgb", "normals"),
    [("points", "rgb", "normals"), ("coord", "color", "normal"), ("xyz", "colors", "normals"), ("pos", "colour", "normal")],
)
def test_names_of_data_sets(tmp_path, points, rgb, normals):
    arrays = {points: POINTS, rgb: RGB, normals: NORMALS, "strength": RANDOM.random(50), "segment": np.arange(50)[:, None]}
    np.savez(tmp_path / "a.npz", **arrays, scene_id=np.array("hall"), instance_names=np.zeros(3))
    found = read_cloud(tmp_path / "a.npz", scene=True)
    assert found.keys() == {"points", "rgb", "normals", "intensity", "field:segment"}
    assert np.array_equal(found["points"], POINTS)
    assert np.array_equal(found["rgb"], RGB)
    assert np.allclose(found["normals"], NORMALS, atol=1e-6)
    assert np.array_equal(found["field:segment"][:, 0], np.arange(50))


def test_colours_of_any_range_are_bytes(tmp_path):
    for rgb in (RGB, RGB / 255, RGB.astype(np.float32), RGB.astype(np.uint16) * 257):
        np.savez(tmp_path / "a.npz", points=POINTS, color=rgb)
        assert np.array_equal(read_cloud(tmp_path / "a.npz")["rgb"], RGB)


def test_columns_of_an_array_can_be_said(tmp_path):
    fractions = np.column_stack([RANDOM.random((50, 3)), POINTS, RGB[:, :1]])
    np.save(tmp_path / "a.npy", fractions)
    found = read_cloud(tmp_path / "a.npy", scene=True, columns=("r", "g", "b", "x", "y", "z", "label"))
    assert np.array_equal(found["points"], POINTS)
    assert np.array_equal(found["rgb"], np.round(fractions[:, :3] * 255))
    assert np.array_equal(found["field:label"], RGB[:, :1])
    np.savez(tmp_path / "b.npz", points=fractions)
    assert np.array_equal(read_cloud(tmp_path / "b.npz", columns="r,g,b,x,y,z,label")["points"], POINTS)
    with pytest.raises(InvalidInputError, match="7 columns, and columns=6 are 6"):
        read_cloud(tmp_path / "a.npy", columns=6)


def test_what_is_read_is_contiguous_and_nothing_elses(tmp_path):
    rows = np.column_stack([POINTS, NORMALS]).astype(np.float64) * 1.1
    np.save(tmp_path / "a.npy", rows)
    found = read_cloud(tmp_path / "a.npy")["points"]
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_an_exact_name_wins_over_a_synonym():
    assert standard_arrays({"points": POINTS, "xyz": RGB})["points"] is POINTS
