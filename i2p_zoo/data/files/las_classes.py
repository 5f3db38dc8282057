"""LAS files written again with other classes, everything else as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data.files.paths import faults_named
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import replacing

SUFFIXES = (".las", ".laz")


def check_las_codes(path: Path, codes: NDArray[Any]) -> None:
    """Makes sure that a LAS file can hold classification codes.

    Raises:
        InvalidInputError: a code below 0 or above what the file's point format holds, or a file that cannot be read.
        MissingExtraError: laspy is not installed.
    """
    _check_codes(path, _read_header(path), codes)


def write_las_classes(path: Path, source: Path, codes: NDArray[Any]) -> None:
    """Writes a LAS file again with other classification codes, whole or not at all.

    Args:
        path: to write.
        source: the file. Every bit of an uncompressed one but the codes is kept; of a compressed one header, records and
            fields, coordinates to the digit.
        codes: (N,) whole numbers, one for each of its points.

    Raises:
        InvalidInputError: another number of codes than of points, or as `check_las_codes`.
        MissingExtraError: laspy or, for .laz, lazrs is not installed.
        OSError: the file cannot be written.

    References:
        LAS specification 1.4-R15, tables 7 and 15: where the class stands in a point.
    """
    header = _read_header(source)
    _check_codes(source, header, codes)
    if header.point_count != len(codes):
        raise InvalidInputError(f"{source} has {header.point_count:,} points, and {len(codes):,} classes were given.")
    with replacing(path) as temporary:
        if header.are_points_compressed:
            with faults_named(source):
                las = require("laspy", "data").read(source)
                las.classification = codes.astype(np.uint8)
            with temporary.open("wb") as stream:
                las.write(stream, do_compress=path.suffix.lower() == ".laz")
        else:
            shutil.copyfile(source, temporary)
            shape = (header.point_count, header.point_format.size)
            _replace_codes(np.memmap(temporary, np.uint8, "r+", header.offset_to_point_data, shape), header, codes)


def _replace_codes(rows: Any, header: Any, codes: NDArray[Any]) -> None:
    """Writes codes into the bytes of points; on returning nothing maps the file, which Windows would not let be renamed."""
    place = 16 if _has_byte(header) else 15
    rows[:, place] = rows[:, place] & (0xFF ^ _largest(header)) | codes.astype(np.uint8)
    rows.flush()


def _read_header(path: Path) -> Any:
    with faults_named(path), require("laspy", "data").open(path) as reader:
        return reader.header


def _check_codes(path: Path, header: Any, codes: NDArray[Any]) -> None:
    largest = _largest(header)
    if unfit := [int(code) for code in np.unique(codes) if not 0 <= code <= largest]:
        advice = "Convert it to point format 6 or above." if unfit[0] >= 0 and unfit[-1] <= 0xFF else "Write it as .ply."
        raise InvalidInputError(
            f"{path}: its point format {header.point_format.id} holds classes of 0 to {largest}, and the network's are "
            f"{', '.join(map(str, unfit))}, among others. {advice}"
        )


def _has_byte(header: Any) -> bool:
    """Whether a point's class has a byte of its own, as from format 6 on; before, three flags share it."""
    return bool(header.point_format.id > 5)


def _largest(header: Any) -> int:
    return 0xFF if _has_byte(header) else 0x1F
