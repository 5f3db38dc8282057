"""Arrays of numpy as clouds: .npy, and .npz with the names that programs and data sets use."""

from __future__ import annotations

import math
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays, check_dtypes, load_arrays, standard_arrays
from i2p_zoo.data.files.named_columns import Columns, divide_rows
from i2p_zoo.data.files.value_blocks import bound_of, check_end, read_blocks
from i2p_zoo.errors import InvalidInputError


def read_npy(file: IO[bytes], columns: Columns | None) -> Arrays:
    """Reads an array (N, 3) or of more columns, which are those of `columns` or those that their values tell.

    Raises:
        InvalidInputError: an array of another shape, columns that cannot be told, or more in the file than an array.
    """
    if (plain := _plain_array(file)) is not None:
        bound = bound_of(read_blocks(file, plain))
        return _divide(plain, columns) | {"bound": np.array(bound)}
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    check_end(file, array.size)
    return _divide(array, columns)


def read_npz(file: IO[bytes], columns: Columns | None) -> Arrays:
    """Reads `points` (or `coord`, `xyz`, `pos`) with `normals`, `rgb` (or `color`), and what else has a value for each point.

    Where there is no such name the only array of three columns is the points.

    Raises:
        InvalidInputError: no such array or several, or other types than such arrays can have.
    """
    arrays = load_arrays(file)
    named = standard_arrays(arrays)
    if "points" not in named:
        candidates = [name for name, array in named.items() if array.ndim == 2 and array.shape[1] == 3]
        if len(candidates) != 1:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise InvalidInputError(f"expected an array `points` (or `coord`, `xyz`), or one array (N, 3); found {shapes}.")
        return {"points": named[candidates[0]]}
    check_dtypes("its", {name: array for name, array in named.items() if name != "colors"})
    cloud = _divide(named.pop("points"), columns)
    count = len(cloud["points"])
    for name, array in named.items():
        if name in ("normals", "colors"):
            cloud[name] = array
        elif array.shape in ((count,), (count, 1)) and array.dtype.kind in "biuf":
            cloud[name if name == "intensity" else f"field:{name}"] = array.reshape(-1)
    return cloud


def _plain_array(file: IO[bytes]) -> NDArray[Any] | None:
    """Returns an empty array for what follows the header, if it is floats of this machine row by row, and all are there."""
    if np.lib.format.read_magic(file) != (1, 0):
        return None
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    rest = os.fstat(file.fileno()).st_size - file.tell()
    is_plain = dtype in (np.float32, np.float64) and not is_fortran and math.prod(shape) * dtype.itemsize == rest
    return np.empty(shape, dtype) if is_plain else None


def _divide(array: NDArray[Any], columns: Columns | None) -> Arrays:
    if array.ndim == 3 and array.shape[2] == 3:
        raise InvalidInputError(f"it holds {len(array)} clouds, {array.shape}; expected one, (N, 3), or a data set, npz:FILE.")
    if array.ndim != 2 or array.shape[1] < 3:
        raise InvalidInputError(f"expected an array (N, 3) or of more columns; found {array.shape}.")
    if columns is None and array.shape[0] in (3, 6) and array.shape[1] > array.shape[0]:
        raise InvalidInputError(f"its shape is {array.shape}, a row for each coordinate; transpose to (N, {array.shape[0]}).")
    return divide_rows(array, columns)
