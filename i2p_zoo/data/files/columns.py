"""Columns of a cloud by the names that programs give them: coordinates, normals, colours, an intensity and other scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError

_ROWS = 2**16  # at a time, so that the columns of a row are copied while they are in the processor's cache
_POINTS = ("x", "y", "z")
# In small letters; the first of these that is there whole is taken, the others stay fields.
_TRIPLES = {
    "normals": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    "colors": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
}
_INTENSITIES = ("intensity", "scalar_intensity")


def gather_columns(columns: Mapping[str, NDArray[Any]]) -> Arrays:
    """Sorts named columns, in any order and case, into what a cloud has.

    Args:
        columns: (N,) numbers by the names that the file gives them.

    Returns:
        `points` (N, 3); where the file has them `normals` and `colors` (N, 3) and `intensity` (N,); and every further column as
        `field:NAME` (N,). All are of the columns' types.

    Raises:
        InvalidInputError: no column x, y or z, or a name twice.

    Example:
        >>> cloud = gather_columns({name: np.zeros(2) for name in ("X", "Y", "Z", "diffuse_red", "B", "G", "R", "time")})
        >>> {name: array.shape for name, array in cloud.items()}
        {'points': (2, 3), 'colors': (2, 3), 'field:diffuse_red': (2,), 'field:time': (2,)}
    """
    left = {name.lower(): name for name in columns}
    if len(left) < len(columns):
        raise InvalidInputError(f"two of its columns have the same name; they are {list(columns)}.")
    cloud = {"points": stack_columns(pick_columns(columns, _POINTS))}
    taken = list(_POINTS)
    for kind, choices in _TRIPLES.items():
        names = next((names for names in choices if left.keys() >= set(names)), ())
        if names:
            cloud[kind] = stack_columns(pick_columns(columns, names))
            taken += names
    intensity = next((name for name in _INTENSITIES if name in left), None)
    if intensity:
        cloud["intensity"] = columns[left[intensity]]
        taken.append(intensity)
    return cloud | {f"field:{left[name]}": columns[left[name]] for name in left if name not in taken}


def pick_columns(columns: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[NDArray[Any]]:
    """Returns the columns of these names, which are in small letters; raises InvalidInputError where one is missing."""
    by_name = {name.lower(): column for name, column in columns.items()}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InvalidInputError(f"its points lack the columns {missing}; they have {list(columns)}.")
    return [by_name[name] for name in names]


def stack_columns(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Returns columns of N numbers as an array (N, columns) of a type that holds all of them, in the machine's byte order."""
    dtype = np.result_type(*(column.dtype for column in columns)).newbyteorder("=")
    stacked = np.empty((len(columns[0]), len(columns)), dtype)
    for start in range(0, len(stacked), _ROWS):
        for number, column in enumerate(columns):
            stacked[start : start + _ROWS, number] = column[start : start + _ROWS]
    return stacked
