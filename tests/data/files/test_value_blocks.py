"""Files that are read in blocks give what numpy reads of them, wherever in them the odd numbers are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.data.files.value_blocks import bound_of, read_blocks

COUNT = 300_000  # rows, so that there are several blocks of either type


def walk(dtype, columns=4):
    """Rows as a scanner gives them, each near the one before; the fourth and later columns from 0 to 1."""
    random = np.random.default_rng(0)
    rows = np.column_stack([random.normal(size=(COUNT, 3)).cumsum(0) / 10, random.random((COUNT, columns - 3))])
    return rows.astype(dtype)


def write(path, rows, suffix):
    path = path / f"a{suffix}"
    np.save(path, rows) if suffix == ".npy" else rows.astype("<f4").tofile(path)
    return path


FORMS = [(".npy", np.float32), (".npy", np.float64), (".bin", np.float32)]


@pytest.mark.parametrize(("suffix", "dtype"), FORMS)
def test_rows_are_as_written(tmp_path, suffix, dtype):
    rows = walk(dtype)
    cloud = read_cloud(write(tmp_path, rows, suffix), columns="x,y,z,intensity", scene=True)
    assert cloud["points"].dtype == dtype
    assert np.array_equal(cloud["points"][:, :3], rows[:, :3])
    assert np.array_equal(cloud["intensity"][:, 0], rows[:, 3].astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize(("suffix", "dtype"), FORMS)
def test_point_without_coordinates_is_left_out_wherever_it_stands(tmp_path, suffix, dtype, place, value):
    rows = walk(dtype)
    rows[place, 1] = value
    path = write(tmp_path, rows, suffix)
    with pytest.warns(UserWarning, match="1 point without coordinates"):
        cloud = read_cloud(path, columns="x,y,z,intensity")
    assert np.array_equal(cloud["points"], np.delete(rows, place, 0)[:, :3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("suffix", "dtype"), FORMS)
def test_intensity_that_is_not_finite_costs_no_point(tmp_path, suffix, dtype, value):
    rows = walk(dtype)
    rows[-1, 3] = value
    path = write(tmp_path, rows, suffix)
    assert np.array_equal(read_cloud(path)["points"], rows[:, :3])
    assert np.array_equal(read_cloud(path, scene=True)["points"][:, :3], rows[:, :3])


@pytest.mark.parametrize("place", [3, COUNT - 1])
@pytest.mark.parametrize(("suffix", "dtype"), FORMS)
def test_normal_that_is_not_finite_costs_the_normals(tmp_path, suffix, dtype, place):
    rows = walk(dtype, 6)
    rows[:, 3:] = [0, 0, 1]
    path = write(tmp_path, rows, suffix)
    assert (read_cloud(path, columns="x,y,z,nx,ny,nz")["normals"] == [0, 0, 1]).all()
    rows[place, 4] = np.nan
    path = write(tmp_path, rows, suffix)
    with pytest.warns(UserWarning, match="normals left out, of which 1 are NaN"):
        cloud = read_cloud(path, columns="x,y,z,nx,ny,nz")
    assert list(cloud) == ["points"]
    assert np.array_equal(cloud["points"], rows[:, :3])


@pytest.mark.parametrize("other", [0.5, np.nan, np.inf], ids=str)
def test_fourth_column_with_one_negative_number_is_no_intensity(tmp_path, other):
    rows = walk(np.float32)
    rows[-2:, 3] = -1e-3, other
    with pytest.raises(InvalidInputError, match="the fourth would be no intensity"):
        read_cloud(write(tmp_path, rows, ".bin"))


@pytest.mark.parametrize("minus", [-0.0, -np.nan], ids=str)
def test_minus_of_zero_or_nan_is_no_negative_number(tmp_path, minus):
    rows = walk(np.float32)
    rows[-1, 3] = np.copysign(minus, -1)
    assert np.array_equal(read_cloud(write(tmp_path, rows, ".bin"))["points"], rows[:, :3])


def test_large_numbers_whose_squares_are_beyond_the_type(tmp_path):
    rows = walk(np.float32, 3) * np.float32(1e30)
    assert np.array_equal(read_cloud(write(tmp_path, rows, ".npy"))["points"], rows)
    doubles = walk(np.float64, 3)
    doubles[-1, 0] = 1e39
    with pytest.raises(InvalidInputError, match="beyond the range of float32"):
        read_cloud(write(tmp_path, doubles, ".npy"))


@pytest.mark.parametrize("form", ["Fortran order", "big-endian", "half", "whole numbers", "header of version 2"])
def test_arrays_of_other_layouts(tmp_path, form):
    rows = np.round(walk(np.float32, 3)[:1000], 1)
    rows[-1, 2] = 7
    kinds = {"big-endian": ">f4", "half": np.float16, "whole numbers": np.int16}
    array = np.asfortranarray(rows) if form == "Fortran order" else rows.astype(kinds.get(form, np.float32))
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, array, (2, 0) if form == "header of version 2" else None)
    assert np.array_equal(read_cloud(tmp_path / "a.npy")["points"], array)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i4"])
def test_files_of_other_lengths_than_their_header_says(tmp_path, dtype, layout):
    file = io.BytesIO()
    np.save(file, walk(dtype, 3)[:1000].copy(layout))
    path = tmp_path / "a.npy"
    for size in (-1, -4 * 3, -4000):
        path.write_bytes(file.getvalue()[:size])
        with pytest.raises(InvalidInputError, match=r"a\.npy cannot be read"):
            read_cloud(path)
    path.write_bytes(2 * file.getvalue())  # as numpy.save writes two arrays to one file
    with pytest.raises(InvalidInputError, match="goes on after its 3,000 numbers"):
        read_cloud(path)


@pytest.mark.parametrize("count", [0, 1, 131_071, 131_072, 131_073, 300_000])
def test_file_that_changes_while_it_is_read(count):
    values = np.arange(count, dtype=np.float32)
    filled = np.empty_like(values)
    assert sum(block.size for block in read_blocks(io.BytesIO(values.tobytes()), filled)) == count
    assert np.array_equal(filled, values)
    with pytest.raises(InvalidInputError, match="goes on after its"):
        list(read_blocks(io.BytesIO(values.tobytes() + b"\0"), filled))
    if count:
        with pytest.raises(InvalidInputError, match=f"ends before its {count:,} numbers do"):
            list(read_blocks(io.BytesIO(values.tobytes()[:-1]), filled))


@given(arrays(np.float64, (7,), elements=st.floats(-1e100, 1e100)), st.sampled_from([None, np.nan, np.inf, -np.inf]))
def test_bound(values, odd):
    bound = bound_of([values[:3], values[3:]])
    assert bound >= np.abs(values).max() * (1 - 1e-9) or np.abs(values).max() < 1e-150  # whose squares vanish
    if odd is not None:
        values[4] = odd
        assert not bound_of([values[:3], values[3:]]) < np.inf
