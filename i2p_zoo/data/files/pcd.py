"""PCD files of versions 0.5 to 0.7: text, binary and compressed."""

from __future__ import annotations

import os
import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.named_columns import gather_columns
from i2p_zoo.errors import InvalidInputError

_KEYWORDS = {"VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA"}
_DTYPES = {f"{letter.upper()}{size}": f"<{letter}{size}" for letter in "iu" for size in (1, 2, 4, 8)} | {
    "F4": "<f4",
    "F8": "<f8",
}
_HIGHEST_RATIO = 100  # LZF writes a run of 264 bytes as three


def read_pcd(file: IO[bytes]) -> Arrays:
    """Reads the points of a PCD file, its normals, its colours, packed or apart, and its other fields.

    Raises:
        InvalidInputError: a header that lacks something or contradicts itself, or fewer or more points than it says.
        MissingExtraError: it is compressed, and python-neo-lzf is not installed.
    """
    header = _read_header(file)
    dtype, count = _row_dtype(header), _count(header)
    encoding = header["DATA"][0].lower()
    if not count:
        rows = np.zeros(0, dtype)
    elif encoding == "ascii":
        rows = _read_ascii(file, dtype)
    elif encoding == "binary":
        rows = _read_binary(file, dtype, count)
    elif encoding in ("binary_compressed", "binaryscompressed"):
        rows = _read_compressed(file, dtype, count)
    else:
        raise InvalidInputError(f"its data are {encoding!r}; expected ascii, binary or binary_compressed.")
    if len(rows) != count:
        problem = "cut short" if len(rows) < count else "longer than its header says"
        raise InvalidInputError(f"{problem}: {len(rows)} of {count} points.")
    columns = {name: rows[name] for name in dtype.names or () if not name.startswith("_")}
    packed = next((columns.pop(name) for name in ("rgb", "rgba") if name in columns), None)
    cloud = gather_columns(columns)
    if packed is not None:  # four bytes, blue first, also where they are declared as a float
        if packed.dtype.itemsize != 4:
            raise InvalidInputError(f"its packed colours are {packed.dtype}; expected four bytes.")
        cloud["colors"] = np.ascontiguousarray(packed).view(np.uint8).reshape(-1, 4)[:, 2::-1]
    return cloud


def _read_header(file: IO[bytes]) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    for number, line in enumerate(file):
        words = line.removeprefix(b"\xef\xbb\xbf" if not number else b"").decode("latin-1").split()
        if not words or words[0].startswith("#"):
            continue
        keyword = words[0].upper()
        if keyword not in _KEYWORDS or len(words) < 2:
            raise InvalidInputError(f"its header has the line {line[:80]!r}, which a PCD file cannot have.")
        header["FIELDS" if keyword == "COLUMNS" else keyword] = words[1:]  # as version 0.5 calls them
        if keyword == "DATA":
            break
    missing = [name for name in ("FIELDS", "DATA") if name not in header]
    if missing:
        raise InvalidInputError(f"its header has no line {' and no line '.join(missing)}.")
    return header


def _row_dtype(header: dict[str, list[str]]) -> np.dtype[Any]:
    names = header["FIELDS"]
    lists = [header.get(keyword, [default] * len(names)) for keyword, default in (("TYPE", "F"), ("SIZE", "4"), ("COUNT", "1"))]
    lengths = [len(names), *map(len, lists)]
    codes = [letter.upper() + size for letter, size in zip(*lists[:2], strict=False)]
    if len(set(lengths)) > 1 or not set(codes) <= _DTYPES.keys() or not all(count.isdecimal() for count in lists[2]):
        raise InvalidInputError(f"its header's fields {names}, types, sizes and counts {lists} do not fit one another.")
    fields: list[tuple[str, str]] = []
    for place, (name, code, count) in enumerate(zip(names, codes, lists[2], strict=True)):
        number = int(count)
        if number > 2**16:
            raise InvalidInputError(f"its field {name!r} has {number} values a point.")
        stem = f"_{place}" if name == "_" else name  # padding
        fields += [(stem if number == 1 else f"{stem}_{part}", _DTYPES[code]) for part in range(number)]
    if len({name for name, _ in fields}) < len(fields):
        raise InvalidInputError(f"its header has a field twice: {names}.")
    return np.dtype(fields)


def _count(header: dict[str, list[str]]) -> int:
    words = header.get("POINTS") or [*header.get("WIDTH", []), *header.get("HEIGHT", ["1"])]
    if not all(word.isdecimal() for word in words) or not {"POINTS", "WIDTH"} & header.keys():
        raise InvalidInputError(f"its header has {words} for the number of points.")
    return int(np.prod([int(word) for word in words], dtype=object))


def _read_ascii(file: IO[bytes], dtype: np.dtype[Any]) -> NDArray[Any]:
    text = (line.decode("latin-1") for line in file)
    try:
        return np.loadtxt(text, dtype, comments=None, ndmin=1)
    except ValueError as error:
        raise InvalidInputError(f"{str(error).partition('; use')[0]} (counted from its first point).") from error


def _read_binary(file: IO[bytes], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    left = os.fstat(file.fileno()).st_size - file.tell()
    rows = np.fromfile(file, dtype, min(count, left // dtype.itemsize))
    if file.read().strip(b"\0"):  # some writers fill up a page
        raise InvalidInputError(f"it has {left - rows.nbytes} bytes more than the {count} points of its header.")
    return rows


def _read_compressed(file: IO[bytes], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    sizes = file.read(8)
    packed_size, size = struct.unpack("<II", sizes) if len(sizes) == 8 else (0, 0)
    if size != count * dtype.itemsize:
        raise InvalidInputError(f"its {count} points are {count * dtype.itemsize} bytes, and its data are said to be {size}.")
    packed = file.read(packed_size)
    if len(packed) < packed_size or size > _HIGHEST_RATIO * packed_size:
        raise InvalidInputError(f"cut short: {len(packed)} of {packed_size} bytes, which are {size} when unpacked.")
    content = require("lzf", "data").decompress(packed, size)
    if content is None or len(content) != size:
        raise InvalidInputError(f"its compressed data are damaged; they are not {size} bytes.")
    rows, start = np.empty(count, dtype), 0
    for name in dtype.names or ():
        rows[name] = np.frombuffer(content, dtype[name], count, start)
        start += count * dtype[name].itemsize
    return rows
