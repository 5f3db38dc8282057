"""Columns by name in any program's spelling, and those without a name by what their values prove."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.named_columns import divide_rows, gather_columns, parse_columns, standard_name

RANDOM = np.random.default_rng(0)
N = 300
XYZ = RANDOM.normal(size=(N, 3)) * 40
NORMALS = RANDOM.normal(size=(N, 3))
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
RGB = RANDOM.integers(0, 256, (N, 3)).astype(float)
LABEL = RANDOM.integers(0, 50, (N, 1)).astype(float)
INTENSITY = RANDOM.integers(-1000, 1000, (N, 1)).astype(float)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("red Red R diffuse_red Rf", {"r"}),
        ("nx NX normal_x Normal_X NormalX n_x nrm_x", {"nx"}),
        ("z //Z #z 'Z'", {"z"}),
        ("intensity Intensity I i", {"intensity"}),
        ("Scalar_field scalar_Field", {"scalar_field"}),
    ],
)
def test_spellings_of_programs_are_one_name(names, expected):
    assert {standard_name(name) for name in names.split()} == expected


def test_named_columns_are_found_in_any_order():
    table = np.arange(24.0).reshape(3, 8)
    found = gather_columns(
        dict(zip("blue Z nz ny green X nx red".split(), table.T, strict=True)) | {"Y": table[:, 0], "t": table[:, 0]}
    )
    assert np.array_equal(found["points"], table[:, [5, 0, 1]])
    assert np.array_equal(found["normals"], table[:, [6, 3, 2]])
    assert np.array_equal(found["colors"], table[:, [7, 4, 0]])
    assert list(found) == ["points", "normals", "colors", "field:t"]


LAYOUTS = {
    "points": ([XYZ], "points"),
    "ModelNet40": ([XYZ, NORMALS], "points normals"),
    "ShapeNetPart": ([XYZ, NORMALS, LABEL], "points normals field:7"),
    "coloured": ([XYZ, RGB], "points colors"),
    "coloured by fractions": ([XYZ, RGB / 255], "points colors"),
    "Semantic3D": ([XYZ, INTENSITY, RGB], "points field:4 colors"),
    "CloudCompare": ([XYZ, RGB, INTENSITY, NORMALS], "points colors field:7 normals"),
    "normals first": ([XYZ, NORMALS, RGB], "points normals colors"),
    "one scalar": ([XYZ, INTENSITY], "points field:4"),
    "normals, one of them unknown": ([XYZ, np.where(np.arange(N)[:, None] == 4, 0, NORMALS)], "points normals"),
    "normals of three places": ([XYZ, np.round(NORMALS, 3)], "points normals"),
    "offsets": ([XYZ, XYZ + 1], "points field:4 field:5 field:6"),
    "small vectors": ([XYZ, NORMALS / 2], "points field:4 field:5 field:6"),
    "three fractions among more": ([XYZ, RGB / 255, INTENSITY], "points field:4 field:5 field:6 field:7"),
}


@pytest.mark.parametrize(("parts", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_columns_without_a_name_are_what_their_values_prove(parts, expected):
    found = divide_rows(np.column_stack(parts), None)
    assert sorted(found) == sorted(expected.split())
    keys = {"points": XYZ, "normals": NORMALS}
    for key in keys.keys() & found.keys():
        assert np.allclose(found[key], next(part for part in parts if np.allclose(part, keys[key], atol=1.01)), atol=1e-12)


DOUBTFUL = {
    "four columns of bytes": (np.column_stack([XYZ, RGB, LABEL]), r"x,y,z,r,g,b,7 or x,y,z,4,r,g,b; name them"),
    "a count of rows": (np.column_stack([np.arange(N), XYZ]), "counts its rows"),
    "a count from one": (np.column_stack([1 + np.arange(N), XYZ, NORMALS]), "counts its rows"),
    "a class first": (np.column_stack([LABEL, XYZ]), "counts its rows or their classes"),
}


@pytest.mark.parametrize(("rows", "message"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_can_be_read_in_two_ways_is_refused_with_the_choices(rows, message):
    with pytest.raises(InvalidInputError, match=message):
        divide_rows(rows, None)
    names = (*"abcdefg"[: rows.shape[1] - 3], *"xyz")
    assert np.array_equal(divide_rows(rows, names)["points"], rows[:, -3:])


def test_a_text_tells_whole_numbers_from_others():
    rows = np.column_stack([XYZ, RGB, LABEL])
    found = divide_rows(rows, None, whole=[False] * 3 + [True] * 3 + [False])
    assert np.array_equal(found["colors"], RGB)
    assert np.array_equal(divide_rows(rows, None, first=True)["colors"], RGB)
    assert np.array_equal(divide_rows(rows, None, first=False)["colors"], rows[:, 4:])


def test_columns_are_said_by_number_or_name():
    assert parse_columns("4") == 4
    assert parse_columns(" x, y , z,Red,G,b,i") == ("x", "y", "z", "r", "g", "b", "intensity")
    rows = np.column_stack([INTENSITY, XYZ])
    found = divide_rows(rows, ("time", "x", "y", "z"))
    assert np.array_equal(found["points"], XYZ)
    assert np.array_equal(found["field:time"], INTENSITY[:, 0])
    with pytest.raises(InvalidInputError, match=r"has 4 columns, and columns=x,y,z are 3"):
        divide_rows(rows, ("x", "y", "z"))


@pytest.mark.parametrize("text", ["2", "x,y", "x,y,z,r,red", "a,b,c", "", "x,y,z,", "-4", "4.5"])
def test_columns_that_cannot_be_are_refused(text):
    with pytest.raises(InvalidInputError, match="columns must be"):
        parse_columns(text)
