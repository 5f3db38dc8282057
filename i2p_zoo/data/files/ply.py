"""PLY files: read as text or in either byte order, each property as it is written, and clouds with colours written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.staging import replacing

_DTYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
_DTYPES |= {str(np.dtype(code)): code for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")}
RGB = ("red", "green", "blue")
_ORDERS = {b"ascii": "=", b"binary_little_endian": "<", b"binary_big_endian": ">"}


class Lists(NamedTuple):
    """A list for each row: the values of all, one list after the other, and how many each has."""

    values: NDArray[Any]
    sizes: NDArray[np.int64]


Properties = dict[str, "NDArray[Any] | Lists"]


class _Property(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    size_dtype: np.dtype[Any] | None  # of a list


class _Element(NamedTuple):
    name: str
    length: int
    properties: list[_Property]


def read_ply(file: IO[bytes]) -> dict[str, Properties]:
    """Returns the properties of each element by name.

    Raises:
        InvalidInputError: no PLY file, or one with fewer or more rows or values than its header says, or a value that its
            type cannot hold.
    """
    is_text, elements = _read_header(file)
    rest: Any = file.read()
    if is_text:
        rest = [line for line in rest.decode("latin-1").splitlines() if line.strip()]
    properties: dict[str, Properties] = {}
    for element in elements:
        lists, size = (_read_text(element, rest), element.length) if is_text else _read_binary(element, rest)
        rest = rest[size:]
        pairs = zip(element.properties, lists, strict=True)
        properties[element.name] = {each.name: column if each.size_dtype else column.values for each, column in pairs}
    if rest and is_text:
        raise InvalidInputError(f"it has {len(rest)} lines more than its header says, the first {rest[0][:80]!r}.")
    if rest:
        raise InvalidInputError(f"it has {len(rest)} bytes more than its header says.")
    return properties


def vertex_columns(elements: dict[str, Properties], names: Sequence[str]) -> list[NDArray[Any]]:
    """Returns the columns of the vertices that the names give.

    Raises:
        InvalidInputError: the vertices lack one of them.
    """
    columns = {name: values for name, values in elements.get("vertex", {}).items() if not isinstance(values, Lists)}
    missing = [name for name in names if name not in columns]
    if missing:
        raise InvalidInputError(f"its vertices lack the properties {missing}; they have {list(columns)}.")
    return [columns[name] for name in names]


def write_colored_ply(path: str | os.PathLike[str], points: NDArray[Any], rgb: NDArray[np.uint8]) -> None:
    """Writes a cloud with a colour for each point as a binary PLY file, whole or not at all.

    Args:
        path: of the file; one that exists is replaced.
        points: (N, 3) numbers, written as float32 where that holds them exactly, else as float64.
        rgb: (N, 3) uint8.

    Raises:
        InvalidInputError: arrays of other shapes or types.
        NotFoundError: the folder does not exist.
    """
    path = Path(path)
    if points.ndim != 2 or points.shape[1] != 3 or rgb.shape != points.shape or rgb.dtype != np.uint8:
        raise InvalidInputError(f"Expected points (N, 3) and rgb (N, 3) uint8; got {points.shape} and {rgb.shape} {rgb.dtype}.")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path}: there is no folder {path.parent}; create it first.")
    is_single = np.array_equal(points.astype(np.float32), points)
    rows = np.empty(len(points), [("position", "<f4" if is_single else "<f8", 3), ("color", "u1", 3)])
    rows["position"], rows["color"] = points, rgb
    properties = [f"property {'float' if is_single else 'double'} {name}" for name in "xyz"] + [
        f"property uchar {name}" for name in RGB
    ]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())


def _read_header(file: IO[bytes]) -> tuple[bool, list[_Element]]:
    encoding = file.readline().split()[1:2] if file.readline(8).strip() == b"ply" else []
    if encoding not in ([order] for order in _ORDERS):
        raise InvalidInputError(
            f"a PLY file begins with the lines `ply` and `format`, of {', '.join(map(bytes.decode, _ORDERS))}."
        )
    order = _ORDERS[encoding[0]]
    elements: list[_Element] = []
    while line := file.readline():
        match line.decode("latin-1").split():
            case ["end_header"]:
                return encoding == [b"ascii"], elements
            case ["element", name, length] if length.isdecimal():
                elements.append(_Element(name, int(length), []))
            case ["property", dtype, name] if elements and dtype in _DTYPES:
                elements[-1].properties.append(_Property(name, np.dtype(order + _DTYPES[dtype]), None))
            case ["property", "list", size_dtype, dtype, name] if elements and {size_dtype, dtype} <= _DTYPES.keys():
                dtypes = [np.dtype(order + _DTYPES[word]) for word in (dtype, size_dtype)]
                elements[-1].properties.append(_Property(name, *dtypes))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise InvalidInputError(f"its header has the line {line[:80]!r}, which a PLY file cannot have.")
    raise InvalidInputError("its header has no end, a line `end_header`.")


def _cut_short(element: _Element, rows: int) -> InvalidInputError:
    return InvalidInputError(f"cut short: {rows} of {element.length} rows of the element {element.name!r}.")


def _read_text(element: _Element, content: Sequence[str]) -> list[Lists]:
    lines = content[: element.length]
    if len(lines) < element.length:
        raise _cut_short(element, len(lines))
    if lines and not any(each.size_dtype for each in element.properties):
        # numpy reads them ten times as fast, but only reading one by one tells which row is at fault
        with contextlib.suppress(ValueError):
            table = np.loadtxt(lines, np.float64, comments=None, ndmin=2)
            ones = np.ones(len(lines), np.int64)
            return [Lists(_held(each, column), ones) for each, column in zip(element.properties, table.T, strict=True)]
    words: list[list[str]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    for line in lines:
        row, start = line.split(), 0
        for each, its_words, its_sizes in zip(element.properties, words, sizes, strict=True):
            size = 1
            if each.size_dtype:
                size, start = (int(row[start]) if start < len(row) else 0), start + 1
            if size < 0:
                raise InvalidInputError(f"a list of the element {element.name!r} has {size} values.")
            its_words += row[start : start + size]
            its_sizes.append(size)
            start += size
        if start != len(row):
            raise InvalidInputError(
                f"a row of the element {element.name!r} has {len(row)} numbers, {line[:80]!r}; by the header it has {start}."
            )
    if any("_" in word for its_words in words for word in its_words):
        raise InvalidInputError(f"the element {element.name!r} has numbers with underscores.")  # which Python would read
    values = [_held(each, np.array(its_words, np.float64)) for each, its_words in zip(element.properties, words, strict=True)]
    return [Lists(column, np.array(its_sizes, np.int64)) for column, its_sizes in zip(values, sizes, strict=True)]


def _held(each: _Property, values: NDArray[np.float64]) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        held = values.astype(each.dtype)
    if each.dtype.kind in "iu" and not np.array_equal(held, values):
        value = values[held != values][0]
        raise InvalidInputError(f"its property {each.name!r} has the value {value:g}, which its type {each.dtype} cannot hold.")
    return held


def _read_binary(element: _Element, content: bytes) -> tuple[list[Lists], int]:
    """Returns the properties and how many bytes they take."""
    # at once if the lists of every row are as long as those of the first, else one by one
    lists, _ = _read_rows(element._replace(length=min(1, element.length)), content)
    fields: list[Any] = []
    for number, (each, first) in enumerate(zip(element.properties, lists, strict=True)):
        fields += [(f"size {number}", each.size_dtype)] if each.size_dtype else []
        fields += [(f"values {number}", each.dtype, (len(first.values),))]
    row_dtype = np.dtype(fields)
    end = element.length * row_dtype.itemsize
    listed = [number for number, each in enumerate(element.properties) if each.size_dtype]
    if end > len(content):
        if not listed:
            raise _cut_short(element, len(content) // row_dtype.itemsize)
        return _read_rows(element, content)
    rows = np.frombuffer(content, row_dtype, element.length)
    if any((rows[f"size {number}"] != len(lists[number].values)).any() for number in listed):
        return _read_rows(element, content)
    values = [rows[f"values {number}"].reshape(-1) for number in range(len(lists))]
    sizes = [np.full(element.length, len(first.values), np.int64) for first in lists]
    return [Lists(_native(column), its_sizes) for column, its_sizes in zip(values, sizes, strict=True)], end


def _read_rows(element: _Element, content: bytes) -> tuple[list[Lists], int]:
    parts: list[list[NDArray[Any]]] = [[np.zeros(0, each.dtype)] for each in element.properties]
    start = 0
    for row in range(element.length):
        for each, its_parts in zip(element.properties, parts, strict=True):
            size = 1
            if each.size_dtype:
                size = int(_take(each.size_dtype, content, start, 1, element, row)[0])
                start += each.size_dtype.itemsize
            its_parts.append(_take(each.dtype, content, start, size, element, row))
            start += its_parts[-1].nbytes
    sizes = [np.array(list(map(len, its_parts[1:])), np.int64) for its_parts in parts]
    return [Lists(_native(np.concatenate(column)), its_sizes) for column, its_sizes in zip(parts, sizes, strict=True)], start


def _take(dtype: np.dtype[Any], content: bytes, start: int, size: int, element: _Element, row: int) -> NDArray[Any]:
    if not 0 <= size * dtype.itemsize <= len(content) - start:
        raise _cut_short(element, row)
    return np.frombuffer(content, dtype, size, start)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="))
