"""OFF files of Geomview, with normals and colours, as ModelNet, CGAL, MeshLab and libigl write them."""

from __future__ import annotations

import re
from typing import IO

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.number_lines import NumberLines, clean_text, gather_lists
from i2p_zoo.errors import InvalidInputError

# Some of ModelNet's have the counts right after `OFF`. A small `n` and a 4 stand for other numbers of dimensions.
_HEADER = re.compile(rb"\s*((?:ST)?(?:C?N?|NC)4?n?OFF|(?:st)?(?:c?n?|nc)off)\s*(?:(\d+)\s+(\d+).*|(BINARY))?")


def read_off(file: IO[bytes]) -> Arrays:
    """Reads an open file: vertices with their normals and colours, and polygons with theirs.

    Raises:
        InvalidInputError: no OFF file as text in three dimensions, or one with more or fewer vertices, faces or numbers than
            its header says.
    """
    text = clean_text(file.read())
    header = _HEADER.match(text)
    if header is None or header[2] is None or b"4" in header[1] or b"nO" in header[1]:
        raise InvalidInputError(
            f"an OFF file of three dimensions begins with `OFF` and the counts of its vertices and faces; found {text[:40]!r}."
        )
    count, face_count = int(header[2]), int(header[3])
    lines = NumberLines(text[header.end() :])
    if not count or len(lines) < count:
        raise InvalidInputError(f"{len(lines)} of the lines of its {count} vertices and {face_count} faces: it is cut short.")
    cloud = _read_vertices(lines, count, header[1].decode().upper().removesuffix("OFF"))
    if len(lines) == count + face_count:
        return cloud | (_read_faces(lines, count) if face_count else {})
    return cloud | _read_wrapped_faces(lines, count, face_count)


def _read_vertices(lines: NumberLines, count: int, letters: str) -> Arrays:
    """Returns the columns that the letters before `OFF` announce: N for normals, C for colours, ST for a place in a texture."""
    rows = lines.read_rows(0, count, np.float64)
    cloud: Arrays = {"points": rows[:, :3]}
    start = 3
    if "N" in letters:
        cloud["normals"], start = rows[:, 3:6], 6
    end = rows.shape[1] - 2 * ("ST" in letters)
    if "C" in letters:
        cloud["colors"] = rows[:, start : start + 3]
        start = min(max(end, start + 3), start + 4)  # with an alpha or without
    if rows.shape[1] < 3 or end < start:
        raise InvalidInputError(f"its vertices have {rows.shape[1]} numbers, {lines.line(0)!r}; {letters}OFF announces more.")
    if end > start:
        cloud["unread"] = np.array([f"{end - start} numbers of each vertex that `{letters}OFF` does not announce"])
    return cloud


def _read_faces(lines: NumberLines, start: int) -> Arrays:
    """Returns the polygons, each a line of its number of corners, their vertices and maybe a colour."""
    values = lines.read_integers(start, len(lines))
    counts = lines.counts[start:]
    places = np.cumsum(counts) - counts
    sizes = values[places].astype(np.int64)
    further = counts - 1 - sizes
    if sizes.min() < 0 or further.min() < 0:
        row = int(np.flatnonzero((sizes < 0) | (further < 0))[0])
        raise InvalidInputError(
            f"a face has fewer vertices than its line says, {lines.line(start + row)!r}: the file is cut short."
        )
    cloud = {"corners": _whole(gather_lists(values, places + 1, sizes)), "sizes": sizes}
    if (further == further[0]).all() and further[0] in (3, 4):
        cloud["face_colors"] = values[(places + 1 + sizes)[:, None] + np.arange(3)]
    elif further.any():
        cloud["unread"] = np.array(["colours that only some of its faces have, or that are numbers of a palette"])
    return cloud


def _read_wrapped_faces(lines: NumberLines, start: int, face_count: int) -> Arrays:
    """Returns polygons whose corners go on over several lines, with nothing else behind them."""
    values = lines.read_integers(start, len(lines)).tolist()
    places, place = list[int](), 0
    while place < len(values) and len(places) <= face_count:
        places.append(place)
        place += 1 + max(int(values[place]), 0)
    if place != len(values) or len(places) != face_count:
        raise InvalidInputError(
            f"it has {len(lines)} lines; by its header it has {start} vertices and {face_count} faces"
            f"{': it is cut short' if len(lines) < start + face_count else ''}."
        )
    numbers, starts = np.array(values), np.array(places, np.int64)
    sizes = numbers[starts].astype(np.int64) if face_count else starts
    return {"corners": _whole(gather_lists(numbers, starts + 1, sizes)), "sizes": sizes}


def _whole(corners: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.int64]:
    whole = corners.astype(np.int64)
    if (whole != corners).any():
        raise InvalidInputError(f"its faces name the vertex {corners[whole != corners][0]:g}; expected whole numbers.")
    return whole
