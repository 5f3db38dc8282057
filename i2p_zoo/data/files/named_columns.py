"""Columns of numbers by name: the names that programs write, and what columns without one must be by their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError

Columns = int | tuple[str, ...]

XYZ, RGB, NORMAL = ("x", "y", "z"), ("r", "g", "b"), ("nx", "ny", "nz")
CHOICES = "x,y,z,intensity or x,y,z,r,g,b or x,y,z,nx,ny,nz or whatever its columns are"
_SPELLINGS = {
    "intensity": ("i", "scalar_intensity"),
    **dict(
        zip(RGB, (("red", "diffuse_red", "rf"), ("green", "diffuse_green", "gf"), ("blue", "diffuse_blue", "bf")), strict=True)
    ),
    **{f"n{axis}": (f"normal_{axis}", f"normal{axis}", f"n_{axis}", f"nrm_{axis}") for axis in XYZ},
}
_STANDARD = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_SAMPLE = 10_000  # rows, by which columns are told apart
_BLOCK = 2**16  # rows that are copied at a time
_UNIT_SLACK = 0.02  # in the length of a normal, as numbers of two or three places give it


def parse_columns(text: str) -> Columns:
    """Reads what a user says of a file's columns: how many there are, or their names between commas.

    Raises:
        InvalidInputError: fewer than three columns, names without x, y and z, or a name twice.

    Example:
        >>> parse_columns("5"), parse_columns("x, y, z, red, green, blue")
        (5, ('x', 'y', 'z', 'r', 'g', 'b'))
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) == 1 and words[0].isdecimal():
        if int(words[0]) < 3:
            raise InvalidInputError(f"columns must be 3 or more; got {text!r}.")
        return int(words[0])
    names = tuple(map(standard_name, words))
    if not set(XYZ) <= set(names) or len(set(names)) < len(names) or "" in names:
        raise InvalidInputError(
            f"columns must be a number or different names, x, y and z among them, such as {CHOICES}; got {text!r}."
        )
    return names


def standard_name(name: str) -> str:
    """Returns `x`, `r`, `nx`, `intensity` and so on of a column's name in any program's spelling; of others, lower case.

    Example:
        >>> [standard_name(name) for name in ("//X", "diffuse_red", "Normal_Z", "Scalar field")]
        ['x', 'r', 'nz', 'scalar_field']
    """
    plain = re.sub(r"[\s\"']+", "_", name.strip(" \t\r\n\"'/#")).lower()
    return _STANDARD.get(plain, plain)


def gather_columns(columns: Mapping[str, NDArray[Any]]) -> Arrays:
    """Returns `points` and, where there are such columns, `normals`, `colors`, `intensity`, and each further `field:NAME`.

    Args:
        columns: (N,) each, by their names in any spelling.

    Returns:
        `points`, `normals` and `colors` (N, 3), the others (N,), all of the columns' types.

    Raises:
        InvalidInputError: no x, y or z, or two columns of one name.
    """
    named: Arrays = {}
    for name, column in columns.items():
        if standard_name(name) in named:
            raise InvalidInputError(f"it has two columns {standard_name(name)!r}; they are {list(columns)}.")
        named[standard_name(name)] = column
    if not set(XYZ) <= named.keys():
        raise InvalidInputError(f"expected columns x, y and z; found {list(columns)}.")
    cloud: Arrays = {}
    for key, names in (("points", XYZ), ("normals", NORMAL), ("colors", RGB)):
        if set(names) <= named.keys():
            cloud[key] = _stack([named.pop(name) for name in names])
    return cloud | {name if name == "intensity" else f"field:{name}": column for name, column in named.items()}


def _stack(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Returns columns of N numbers as (N, columns), copied while the rows that they share are in the processor's cache."""
    stacked = np.empty((len(columns[0]), len(columns)), np.result_type(*columns).newbyteorder("="))
    for start in range(0, len(stacked), _BLOCK):
        for number, column in enumerate(columns):
            stacked[start : start + _BLOCK, number] = column[start : start + _BLOCK]
    return stacked


def divide_rows(rows: NDArray[Any], columns: Columns | None, whole: Sequence[bool] = (), first: bool | None = None) -> Arrays:
    """Returns the parts of a cloud of rows of numbers, as `gather_columns` does.

    Args:
        rows: (N, K), three columns or more.
        columns: their names or number; None or a number for what their values tell: unit vectors are normals, three columns
            of whole numbers up to 255 colours, and so are the last three of six within 0 to 1. Others are `field:4` and so on.
        whole: of a text, which columns are written without a decimal point.
        first: whether the first or the last three are colours where more columns than three could be; None to refuse.

    Raises:
        InvalidInputError: not as many columns as named, or values that can be read in more ways than one.
    """
    width = rows.shape[1]
    count = columns if isinstance(columns, int) else len(columns or ()) or width
    if count != width:
        raise InvalidInputError(f"it has {width} columns, and columns={_written(columns)} are {count}.")
    names = columns if isinstance(columns, tuple) else _tell_names(rows, whole or [False] * width, first)
    slices = {"points": XYZ, "normals": NORMAL, "colors": RGB}
    places = {name: place for place, name in enumerate(names)}
    cloud: Arrays = {}
    for key, parts in slices.items():
        where = [places.pop(name) for name in parts] if set(parts) <= places.keys() else []
        if where:
            adjacent = where == list(range(where[0], where[0] + 3))
            cloud[key] = rows[:, where[0] : where[0] + 3] if adjacent else rows[:, where]
    return cloud | {name if name == "intensity" else f"field:{name}": rows[:, place] for name, place in places.items()}


def _tell_names(rows: NDArray[Any], whole: Sequence[bool], first: bool | None) -> tuple[str, ...]:
    width = rows.shape[1]
    names = [*XYZ, *(str(place + 1) for place in range(3, width))]
    if width == 3 or rows.dtype.kind not in "iuf":
        return tuple(names)
    sample = rows[:: -(-len(rows) // _SAMPLE)].astype(np.float64) if len(rows) else np.zeros((0, width))
    _check_positions(rows[:_SAMPLE, 0].astype(np.float64), sample)
    starts = range(3, width - 2)
    normals = [start for start in starts if _are_unit(sample[:, start : start + 3])][:1]
    colors = [
        start
        for start in starts
        if all(abs(start - other) > 2 for other in normals)
        and _are_bytes(sample[:, start : start + 3], whole[start : start + 3])
    ]
    if width == 6 and not normals and not colors and _are_fractions(sample[:, 3:]):
        colors = [3]
    if len(colors) > 1 and first is None:
        readings = [",".join(_renamed(names, RGB, start)) for start in (colors[0], colors[-1])]
        raise InvalidInputError(f"its columns can be {readings[0]} or {readings[1]}; name them, as columns={readings[0]}.")
    for parts, start in [(NORMAL, start) for start in normals] + [(RGB, colors[0 if first else -1]) for _ in colors[:1]]:
        names = _renamed(names, parts, start)
    return tuple(names)


def _renamed(names: Sequence[str], parts: Sequence[str], start: int) -> list[str]:
    return [*names[:start], *parts, *names[start + 3 :]]


def _check_positions(first: NDArray[Any], sample: NDArray[np.float64]) -> None:
    """Raises InvalidInputError where the first of four columns or more looks like a number or a class of the row."""
    with np.errstate(invalid="ignore"):
        whole = [bool((column == np.round(column)).all()) for column in sample[:, :4].T]
    counts = len(first) > 2 and first[0] in (0, 1) and bool((np.diff(first) == 1).all())
    if len(sample) > 2 and (counts or whole == [True, False, False, False]):
        raise InvalidInputError(
            "its first column counts its rows or their classes, as it seems; name its columns, as columns=x,y,z,intensity or "
            "columns=id,x,y,z."
        )


def _are_unit(vectors: NDArray[np.float64]) -> bool:
    lengths = np.linalg.norm(vectors[np.isfinite(vectors).all(1)], axis=1)
    lengths = lengths[lengths > 0]  # of points whose normal is unknown
    return bool(len(lengths)) and bool((np.abs(lengths - 1) < _UNIT_SLACK).all())


def _are_bytes(values: NDArray[np.float64], whole: Sequence[bool]) -> bool:
    is_range = len(values) and bool(((values >= 0) & (values <= 255) & (values == np.round(values))).all())
    return bool(is_range and values.max() > 1 and len(set(whole)) == 1)


def _are_fractions(values: NDArray[np.float64]) -> bool:
    return bool(((values >= 0) & (values <= 1)).all()) and bool((values != np.round(values)).any())


def _written(columns: Columns | None) -> str:
    return ",".join(columns) if isinstance(columns, tuple) else str(columns)
