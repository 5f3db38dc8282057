"""LAS files written again with other classes, everything else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data.files.paths import faults_named
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import replacing

SUFFIXES = (".las", ".laz")
_SMALL_FORMATS, _SMALL, _LARGE = range(6), 31, 255  # the largest classification of point formats 0 to 5, and of others


def check_las_codes(path: Path, codes: NDArray[Any]) -> None:
    """Makes sure that a LAS file can hold classification codes.

    Raises:
        InvalidInputError: a code below 0 or above what the file's point format holds, or a file that cannot be read.
        MissingExtraError: laspy or, for .laz, lazrs is not installed.
    """
    with faults_named(path), require("laspy", "data").open(path) as reader:
        point_format = reader.header.point_format.id
    largest = _SMALL if point_format in _SMALL_FORMATS else _LARGE
    if unfit := [int(code) for code in np.unique(codes) if not 0 <= code <= largest]:
        raise InvalidInputError(
            f"{path}: its point format {point_format} holds classes of 0 to {largest}, and the network's are "
            f"{', '.join(map(str, unfit))}, among others. "
            + ("Convert it to point format 6 or above." if max(unfit) <= _LARGE and min(unfit) >= 0 else "Write it as .ply.")
        )


def write_las_classes(path: Path, source: Path, codes: NDArray[Any]) -> None:
    """Writes a LAS file again with other classification codes, whole or not at all.

    Args:
        path: to write; compressed where it ends in .laz.
        source: the file, whose header, records and fields are kept, coordinates to the digit.
        codes: (N,) whole numbers, one for each of its points.

    Raises:
        InvalidInputError: another number of codes than of points, or as `check_las_codes`.
        MissingExtraError: laspy or, for .laz, lazrs is not installed.
        OSError: the file cannot be written.
    """
    check_las_codes(source, codes)
    with faults_named(source):
        las = require("laspy", "data").read(source)
        if len(las.points) != len(codes):
            raise InvalidInputError(f"it has {len(las.points):,} points, and {len(codes):,} classes were given.")
        las.classification = codes.astype(np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        las.write(stream, do_compress=path.suffix.lower() == ".laz")
