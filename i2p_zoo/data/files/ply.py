"""PLY files: read as text or in either byte order, each property as it is written, and clouds with colours written."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.number_lines import NumberLines, clean_text, gather_lists
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.staging import replacing

_DTYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
_DTYPES |= {str(np.dtype(code)): code for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")}
RGB = ("red", "green", "blue")
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*ply[ \t]*(\r\n|\n|\r)", re.IGNORECASE)
_END = {b"\n": re.compile(rb"\n[ \t]*end_header[ \t\r]*(?:\n|\Z)", re.IGNORECASE)}
_END |= {b"\r\n": _END[b"\n"], b"\r": re.compile(rb"\r[ \t]*end_header[ \t]*(?:\r|\Z)", re.IGNORECASE)}


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


class PlyFile(NamedTuple):
    """What a PLY file holds.

    Attributes:
        elements: the properties of each element, by the names that the file gives them.
        comments: the lines of its header that are comments.
    """

    elements: dict[str, Properties]
    comments: list[str]


def read_ply(file: IO[bytes]) -> PlyFile:
    """Reads an open file of the disk; arrays of a binary one may be views of it, which are read from it when they are used.

    Raises:
        InvalidInputError: no PLY file, or one with fewer or more rows or values than its header says, or a value that its
            type cannot hold.
    """
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    encoding, elements, comments, start = _read_header(content)
    properties: dict[str, Properties] = {}
    rows = NumberLines(clean_text(content[start:], comments=False)) if encoding == "ascii" else None
    start = 0 if rows is not None else start
    for element in elements:
        if rows is not None:
            columns, start = _read_text(element, rows, start), start + element.length
        else:
            columns, start = _read_binary(element, content, start)
        properties[element.name] = {each.name: column for each, column in zip(element.properties, columns, strict=True)}
    if rows is not None and start < len(rows):
        raise InvalidInputError(f"it has {len(rows) - start} lines more than its header says, the first {rows.line(start)!r}.")
    if rows is None and start < len(content):
        raise InvalidInputError(f"it has {len(content) - start} bytes more than its header says.")
    return PlyFile(properties, comments)


def vertex_columns(elements: dict[str, Properties], names: Sequence[str]) -> list[NDArray[Any]]:
    """Returns the columns of the vertices that the names, in small letters, give.

    Raises:
        InvalidInputError: the vertices lack one of them.
    """
    columns = scalar_columns(elements.get("vertex", {}))
    by_name = {name.lower(): column for name, column in columns.items()}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InvalidInputError(f"its vertices lack the properties {missing}; they have {list(columns)}.")
    return [by_name[name] for name in names]


def scalar_columns(properties: Properties) -> dict[str, NDArray[Any]]:
    """Returns those properties that are no lists."""
    return {name: column for name, column in properties.items() if not isinstance(column, Lists)}


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


def _read_header(content: mmap.mmap) -> tuple[str, list[_Element], list[str], int]:
    """Returns the encoding, the elements, the comments and where the rows begin."""
    start = _START.match(content)
    end = _END[start[1]].search(content, start.end() - len(start[1])) if start else None
    if start is None or end is None:
        fault = "its header has no end, a line `end_header`" if start else "a PLY file begins with a line `ply`"
        raise InvalidInputError(f"{fault}.")
    lines = content[start.end() : end.start()].decode("latin-1").splitlines()
    encoding, elements, comments = "", list[_Element](), list[str]()
    for line in lines:
        match [*line.lower().split()[:-1], *line.split()[-1:]]:  # a name keeps its letters
            case ["format", word, "1.0"] if word in _ORDERS and not encoding:
                encoding = word
            case ["element", _, length] if length.isdecimal() and encoding:
                elements.append(_Element(line.split()[1].lower(), int(length), []))
            case ["property", dtype, name] if elements and dtype in _DTYPES:
                elements[-1].properties.append(_Property(name, np.dtype(_ORDERS[encoding] + _DTYPES[dtype]), None))
            case ["property", "list", size_dtype, dtype, name] if elements and {size_dtype, dtype} <= _DTYPES.keys():
                dtypes = [np.dtype(_ORDERS[encoding] + _DTYPES[word]) for word in (dtype, size_dtype)]
                if dtypes[1].kind == "f":
                    raise InvalidInputError(f"its header has a list whose length is a {size_dtype}: {line[:80]!r}.")
                elements[-1].properties.append(_Property(name, *dtypes))
            case ["comment" | "obj_info", *_]:
                comments.append(line.strip())
            case []:
                pass
            case _:
                raise InvalidInputError(
                    f"its header has the line {line[:80]!r}, which a PLY file cannot have there; it begins with the lines "
                    f"`ply` and `format`, of {', '.join(_ORDERS)} 1.0."
                )
    if not encoding:
        raise InvalidInputError(f"its header lacks a line `format`, of {', '.join(_ORDERS)} 1.0.")
    groups = {"": [each.name for each in elements]}
    groups |= {f" of the element {element.name!r}": [each.name for each in element.properties] for element in elements}
    for place, names in groups.items():
        if len({name.lower() for name in names}) < len(names):
            raise InvalidInputError(f"its header has a name twice{place}: {names}.")
    return encoding, elements, comments, end.end()


def _cut_short(element: _Element, rows: int) -> InvalidInputError:
    return InvalidInputError(f"cut short: {rows} of {element.length} rows of the element {element.name!r}.")


def _read_text(element: _Element, rows: NumberLines, start: int) -> list[NDArray[Any] | Lists]:
    stop = start + element.length
    if stop > len(rows):
        raise _cut_short(element, len(rows) - start)
    is_whole = all(each.dtype.kind in "iu" for each in element.properties)
    values = rows.read_integers(start, stop) if is_whole else rows.read(start, stop, np.float64)
    counts = rows.counts[start:stop]
    ends = np.cumsum(counts)
    places = ends - counts  # of the next number in each row
    spans = []
    for each in element.properties:
        sizes = np.ones(len(ends), np.int64)
        if each.size_dtype:
            is_there = places < ends
            sizes = np.zeros(len(ends), np.int64)
            sizes[is_there] = values[places[is_there]]
            places = places + 1
        if sizes.min(initial=0) < 0:
            raise InvalidInputError(f"a list of the element {element.name!r} has {sizes.min()} values.")
        spans.append((places, sizes))
        places = places + sizes
    if wrong := np.flatnonzero(places != ends).tolist():
        row, due = rows.line(start + wrong[0]), (places - ends + counts)[wrong[0]]
        raise InvalidInputError(
            f"a row of the element {element.name!r} has {counts[wrong[0]]} numbers, {row!r}; by the header it has {due}."
        )
    columns: list[NDArray[Any] | Lists] = []
    for each, (firsts, sizes) in zip(element.properties, spans, strict=True):
        column = _held(each, gather_lists(values, firsts, sizes) if each.size_dtype else values[firsts])
        columns.append(Lists(column, sizes) if each.size_dtype else column)
    return columns


def _held(each: _Property, values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        held = values.astype(each.dtype)
    if each.dtype.kind in "iu" and not np.array_equal(held, values):
        value = values[held != values][0]
        raise InvalidInputError(f"its property {each.name!r} has the value {value:g}, which its type {each.dtype} cannot hold.")
    return held


def _read_binary(element: _Element, content: mmap.mmap, start: int) -> tuple[list[NDArray[Any] | Lists], int]:
    """Returns the properties, of which scalars may be views of the file, and where they end."""
    shortest = sum((each.size_dtype or each.dtype).itemsize for each in element.properties)
    if element.length * shortest > len(content) - start:
        raise _cut_short(element, (len(content) - start) // shortest)
    if not element.length or not element.properties:
        nothing = [np.zeros(0, each.dtype) for each in element.properties]
        nowhere = np.zeros(0, np.int64)
        pairs = zip(element.properties, nothing, strict=True)
        return [Lists(values, nowhere) if each.size_dtype else values for each, values in pairs], start
    # at once if the lists of every row are as long as those of the first, else one by one
    sizes, _ = _walk_lists(element._replace(length=1), content, start)
    fields: list[Any] = []
    for each, size in zip(element.properties, sizes, strict=True):
        fields += [(f"size of {each.name}", each.size_dtype)] if each.size_dtype else []
        fields += [(each.name, each.dtype, tuple(size)) if each.size_dtype else (each.name, each.dtype)]
    row_dtype = np.dtype(fields)
    end = start + element.length * row_dtype.itemsize
    if end > len(content):
        return _read_ragged(element, content, start)
    rows = np.ndarray(element.length, row_dtype, content, start)
    columns: list[NDArray[Any] | Lists] = []
    for each, size in zip(element.properties, sizes, strict=True):
        if each.size_dtype and (rows[f"size of {each.name}"] != size).any():
            return _read_ragged(element, content, start)
        column = rows[each.name]
        columns.append(Lists(_native(column), np.broadcast_to(size, len(rows))) if each.size_dtype else column)
    return columns, end


def _read_ragged(element: _Element, content: mmap.mmap, start: int) -> tuple[list[NDArray[Any] | Lists], int]:
    sizes, ends = _walk_lists(element, content, start)
    places = np.append(start, ends[:-1]) - start if len(ends) else ends  # of the next property in each row
    end = int(ends[-1]) if len(ends) else start
    letters = np.frombuffer(content, np.uint8, end - start, start) if end > start else np.zeros(0, np.uint8)
    columns: list[NDArray[Any] | Lists] = []
    for each, its_sizes in zip(element.properties, sizes, strict=True):
        places = places + (each.size_dtype.itemsize if each.size_dtype else 0)
        values = _native(_pick_bytes(letters, places, its_sizes * each.dtype.itemsize).view(each.dtype))
        columns.append(Lists(values, its_sizes) if each.size_dtype else values)
        places = places + its_sizes * each.dtype.itemsize
    return columns, end


def _walk_lists(element: _Element, content: mmap.mmap, start: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Returns how many values each property has in each row, and where the rows end."""
    lists, skipped = [], 0
    for each in element.properties:
        if each.size_dtype:
            order: Literal["big", "little"] = "big" if each.size_dtype.str[0] == ">" else "little"
            lists.append((skipped, each.size_dtype.itemsize, order, each.dtype.itemsize, list[int]()))
        skipped = 0 if each.size_dtype else skipped + each.dtype.itemsize
    place = start
    with contextlib.suppress(IndexError):  # past the file's end
        if len(lists) == 1 and lists[0][1] == 1:  # as most meshes have it
            before, _, _, itemsize, its_sizes = lists[0]
            letters, place = content[start + before :], 0
            steps = [1 + size * itemsize + skipped + before for size in range(256)]
            for _ in range(element.length):
                its_sizes.append(size := letters[place])
                place += steps[size]
        else:
            for _ in range(element.length if lists else 0):
                for before, width, order, itemsize, its_sizes in lists:
                    place += before
                    size = content[place] if width == 1 else int.from_bytes(content[place : place + width], order)
                    its_sizes.append(size)
                    place += width + size * itemsize
                place += skipped
    rows = len(lists[-1][-1]) if lists else element.length
    walked = (each[-1][:rows] for each in lists)
    sizes, widths = [], np.zeros(rows, np.int64)
    for each in element.properties:
        sizes.append(_list_sizes(element, each, next(walked), len(content)) if each.size_dtype else np.ones(rows, np.int64))
        widths += sizes[-1] * each.dtype.itemsize + (each.size_dtype.itemsize if each.size_dtype else 0)
    ends = start + np.cumsum(widths)
    whole = int((ends <= len(content)).sum())
    if whole < element.length:
        raise _cut_short(element, whole)
    return sizes, ends


def _list_sizes(element: _Element, each: _Property, sizes: list[int], most: int) -> NDArray[np.int64]:
    unsigned = np.array(sizes, np.uint64)
    signed = unsigned.astype(each.size_dtype.newbyteorder("=")).astype(np.int64) if each.size_dtype else unsigned
    if each.size_dtype and each.size_dtype.kind == "i" and signed.min(initial=0) < 0:
        raise InvalidInputError(f"a list of the element {element.name!r} has {signed.min()} values.")
    return np.minimum(unsigned, most).astype(np.int64)


def _pick_bytes(letters: NDArray[np.uint8], starts: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Returns those bytes that lie in spans, of which none touches the next, one span after the other."""
    marks = np.zeros(len(letters) + 1, np.int8)
    marks[starts[widths > 0]] = 1
    marks[(starts + widths)[widths > 0]] = -1
    chosen: NDArray[np.uint8] = letters[np.cumsum(marks[:-1], out=marks[:-1]).view(bool)]
    return chosen


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """Returns values one after the other, in the machine's byte order."""
    return values.astype(values.dtype.newbyteorder("=")).reshape(-1)
