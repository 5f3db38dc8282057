"""LAS and LAZ files, whose headers are checked against the file before a decoder believes them."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError

_HEADER = 227  # bytes of version 1.0 to 1.2
_LONG_HEADER = 375  # of version 1.4
_RECORD_HEADER, _LONG_RECORD_HEADER = 54, 60
_POINTWISE = 1  # LASzip's first compressor, which lazrs does not know
_STDERR = 2


def read_las(file: IO[bytes], scene: bool) -> Arrays:
    """Reads coordinates in doubles and colours; for a scene also the intensity and every other dimension.

    Raises:
        InvalidInputError: a header that reaches past the file's end, or a file that is cut short or damaged.
        MissingExtraError: laspy is not installed, or lazrs for a compressed file.
    """
    laspy = require("laspy", "data")
    _check_header(file)
    file.seek(0)
    with _panics_held():
        las = laspy.read(file, closefd=False)
    count = las.header.point_count
    if len(las.points) < count:
        raise InvalidInputError(f"cut short: {len(las.points)} of {count} points.")
    points = np.empty((count, 3))
    for axis, name in enumerate("XYZ"):
        np.multiply(las[name], las.header.scales[axis], out=points[:, axis])
        points[:, axis] += las.header.offsets[axis]
    cloud: Arrays = {"points": points}
    names = list(las.point_format.dimension_names)
    if {"red", "green", "blue"} <= set(names):
        cloud["colors"] = np.stack([las[name] for name in ("red", "green", "blue")], 1)
    return cloud | (_scalars(las, names) if scene else {})


def read_laz(file: IO[bytes], scene: bool) -> Arrays:
    """Reads a compressed file as `read_las` does."""
    require("lazrs", "data")  # which laspy looks for by itself
    return read_las(file, scene)


def _scalars(las: Any, names: list[str]) -> Arrays:
    scalars: Arrays = {}
    for name in names:
        if name not in {"X", "Y", "Z", "red", "green", "blue"}:
            values: NDArray[Any] = np.asarray(las[name])
            key = name if name == "intensity" else f"field:{name}"
            parts = {key: values} if values.ndim == 1 else {f"{key}_{part}": each for part, each in enumerate(values.T)}
            scalars |= parts
    return scalars


def _check_header(file: IO[bytes]) -> None:
    """Raises InvalidInputError where records that a header declares cannot be in the file, before time is spent on them."""
    size = os.fstat(file.fileno()).st_size
    header = file.read(_LONG_HEADER)
    if header[:4] != b"LASF" or len(header) < _HEADER:
        raise InvalidInputError(f"a LAS file begins with LASF and a header of {_HEADER} bytes; it has {size} bytes.")
    header_size, start, records = struct.unpack_from("<HII", header, 94)
    if header_size < _HEADER or header_size + _RECORD_HEADER * records > start or start > size:
        raise InvalidInputError(
            f"its header declares {records:,} variable length records before byte {start:,}, and the file has {size:,} bytes."
        )
    point_format, point_size, count = struct.unpack_from("<BHI", header, 104)
    if header[24:26] >= b"\x01\x04" and len(header) == _LONG_HEADER:
        long_start, long_records, long_count = struct.unpack_from("<QIQ", header, 235)
        if long_records and long_start + _LONG_RECORD_HEADER * long_records > size:
            raise InvalidInputError(
                f"its header declares {long_records:,} extended records from byte {long_start:,}; the file has {size:,} bytes."
            )
        count = long_count or count
    if not point_size:
        raise InvalidInputError("its points have 0 bytes.")
    if point_format & 0xC0:
        _check_compressed(file, header_size, start, records, point_size, count, size)
    elif count * point_size > size - start:
        raise InvalidInputError(f"cut short: {(size - start) // point_size} of {count} points.")


def _check_compressed(
    file: IO[bytes], header_size: int, start: int, records: int, point_size: int, count: int, size: int
) -> None:
    """Raises InvalidInputError for a compressor that nobody here knows, or more points than the file's chunks can hold."""
    settings = _find_laszip(file, header_size, start, records)
    if len(settings) < 16:
        raise InvalidInputError("it is compressed, and says nothing of how: it has no record of LASzip.")
    compressor, _, _, _, _, _, chunk_size = struct.unpack_from("<HHBBHII", settings)
    if compressor <= _POINTWISE:
        raise InvalidInputError(
            "it is compressed point by point, as LASzip did before version 2; write it anew with laszip, LAStools or PDAL."
        )
    if not count:
        return
    file.seek(start)
    place = struct.unpack("<q", file.read(8).ljust(8, b"\0"))[0]
    if place == -1:  # of writers that could not go back: the place stands at the end
        file.seek(max(size - 8, 0))
        place = struct.unpack("<q", file.read(8).ljust(8, b"\0"))[0]
    if not start < place <= size - 8:
        raise InvalidInputError(
            f"cut short: its table of chunks should stand at byte {place:,}, and the file has {size:,} bytes."
        )
    file.seek(place)
    chunks = struct.unpack("<II", file.read(8))[1]
    is_fixed = chunk_size != 2**32 - 1
    if chunks * point_size > size or (is_fixed and count > chunks * chunk_size):
        raise InvalidInputError(f"its {chunks:,} chunks cannot hold the {count:,} points of its header.")


def _find_laszip(file: IO[bytes], header_size: int, start: int, records: int) -> bytes:
    place = header_size
    for _ in range(records):
        file.seek(place)
        record = file.read(_RECORD_HEADER)
        if len(record) < _RECORD_HEADER:
            break
        user, number, length = record[2:18].rstrip(b"\0"), *struct.unpack_from("<HH", record, 18)
        if place + _RECORD_HEADER + length > start:
            raise InvalidInputError(f"a variable length record at byte {place:,} reaches past the first point at {start:,}.")
        if (user, number) == (b"laszip encoded", 22204):
            return file.read(length)
        place += _RECORD_HEADER + length
    return b""


@contextlib.contextmanager
def _panics_held() -> Iterator[None]:
    """Keeps what a decoder in Rust writes to the process's standard error when it panics, before Python hears of it."""
    try:
        saved = os.dup(_STDERR)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
