"""OBJ files of Wavefront: vertices, with the colours that MeshLab and Blender put behind them, and polygons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.number_lines import NumberLines, clean_text
from i2p_zoo.data.files.polygons import check_corners
from i2p_zoo.errors import InvalidInputError

_INTEGER = b"0123456789+-"
_JOINED = re.compile(rb"^[ \t]*(?:vn?|f)[ \t](?:.*\\\n)*.*", re.MULTILINE)  # elsewhere a backslash is part of a name


def read_obj(file: IO[bytes], scene: bool) -> Arrays:
    """Reads an open file; materials and textures, which stand in other files, are not read.

    Args:
        file: opened for bytes.
        scene: give each vertex its normal, if every corner at it has the same one.

    Raises:
        InvalidInputError: no vertices, or a line with too few or strange numbers.
    """
    text = clean_text(file.read())
    if b"\\\n" in text:
        text = _JOINED.sub(lambda match: match[0].replace(b"\\\n", b" "), text)
    lines = text.split(b"\n")
    if b"\n " in text or b"\n\t" in text or text[:1].isspace():
        lines = [line.lstrip() for line in lines]
    del text
    vertices, faces = _select(lines, b"v"), _select(lines, b"f")
    if not vertices:
        raise InvalidInputError("it has no vertices, lines such as `v 0 0 1`.")
    cloud = _read_vertices(_read_lines(_behind(lines, vertices, b"v"), len(vertices)))
    corner_normals = None
    if faces:
        corners, corner_normals, sizes = _read_corners(_behind(lines, faces, b"f"), len(faces))
        cloud |= {"corners": _resolve(corners, sizes, vertices, faces), "sizes": sizes}
    definitions = _select(lines, b"vn") if scene else []
    if definitions and (corner_normals is not None or not faces):
        rows = _read_lines(_behind(lines, definitions, b"vn"), len(definitions)).read_rows(0, len(definitions), np.float64)
        if rows.shape[1] != 3:
            raise InvalidInputError(f"a normal has {rows.shape[1]} numbers; expected three.")
        if corner_normals is not None:
            cloud |= _spread_normals(rows, _resolve(corner_normals, sizes, definitions, faces), cloud)
        elif len(rows) == len(vertices):
            cloud["normals"] = rows
    if any(line.startswith(b"usemtl") for line in lines):
        cloud["unread"] = np.append(cloud.get("unread", np.zeros(0, str)), "its materials, which stand in another file")
    return cloud


def _select(lines: Sequence[bytes], keyword: bytes) -> list[int]:
    """Returns the numbers of the lines that begin with a keyword."""
    starts = (keyword + b" ", keyword + b"\t")
    return [number for number, line in enumerate(lines) if line.startswith(starts)]


def _behind(lines: Sequence[bytes], numbers: Sequence[int], keyword: bytes) -> bytes:
    """Returns what stands behind the keyword in these lines."""
    return b"\n".join([lines[number][len(keyword) :] for number in numbers])


def _read_lines(text: bytes, count: int) -> NumberLines:
    lines = NumberLines(text)
    if len(lines) < count:
        raise InvalidInputError("a line that begins with `v`, `vn` or `f` has no numbers.")
    return lines


def _read_corners(text: bytes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64]]:
    """Returns the vertex and, if all have one, the normal of each corner, and how many corners each face has."""
    slashes = {*text.translate(None, _INTEGER).split()}  # of each corner that has some, such as // in 1/2/3 and 1//3
    width = {b"/": 2, b"//": 2 if b"//" in text else 3}.get(b"".join(slashes)) if len(slashes) == 1 else None
    if width:
        shared = slashes.pop()
        lines = _read_lines(text.replace(b"/", b" "), count)
        if lines.counts.sum() == text.count(b"/") // len(shared) * width:
            rows = lines.read(0, len(lines), np.int64).reshape(-1, width)
            return rows[:, 0], rows[:, -1] if shared == b"//" else None, lines.counts // width
    lines = _read_lines(re.sub(rb"/\S*", b"", text) if slashes else text, count)
    return lines.read(0, len(lines), np.int64), None, lines.counts


def _read_vertices(lines: NumberLines) -> Arrays:
    """Returns the positions, of x, y, z or x, y, z and a weight, which polygons do not use, and colours behind the former."""
    counts, values = lines.counts, lines.read(0, len(lines), np.float64)
    if counts.min(initial=3) < 3:
        raise InvalidInputError(f"a vertex has fewer than three numbers: {lines.line(int(counts.argmin()))!r}.")
    is_table = bool((counts == counts[0]).all())
    rows = values.reshape(len(counts), -1) if is_table else values[(np.cumsum(counts) - counts)[:, None] + np.arange(3)]
    cloud: Arrays = {"points": rows[:, :3]}
    if rows.shape[1] == 6:
        cloud["colors"] = rows[:, 3:]
    elif counts.max() > 4:
        cloud["unread"] = np.array(["numbers behind the coordinates of its vertices, which are no colours of three for each"])
    return cloud


def _resolve(
    numbers: NDArray[np.int64], sizes: NDArray[np.int64], definitions: Sequence[int], faces: Sequence[int]
) -> NDArray[np.int64]:
    """Returns indices of numbers from 1, or negative, backwards from the last definition before the face."""
    if numbers.min(initial=1) > 0:
        return numbers - 1
    before = np.repeat(np.searchsorted(definitions, faces), sizes)
    return np.where(numbers < 0, before + numbers, numbers - 1)


def _spread_normals(rows: NDArray[np.float64], numbers: NDArray[np.int64], cloud: Arrays) -> Arrays:
    """Returns the normals of the vertices where all corners at each have the same one, else nothing."""
    corners, count = cloud["corners"], len(cloud["points"])
    check_corners(count, corners)
    of_vertex = np.full(count, -1)
    of_vertex[corners] = numbers
    is_one = of_vertex.min() >= 0 and of_vertex.max() < len(rows) and np.array_equal(of_vertex[corners], numbers)
    return {"normals": rows[of_vertex]} if is_one else {}
