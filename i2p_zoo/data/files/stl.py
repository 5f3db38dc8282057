"""STL files, as text or binary: the corners of triangles in the file's order, which are not joined."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.number_lines import NumberLines, clean_text
from i2p_zoo.errors import InvalidInputError

_HEADER = 84  # bytes: a title and how many triangles there are
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_KEYWORDS = (b"facet normal", b"outer loop", b"vertex", b"endloop", b"endfacet")
_NUMBER_LETTERS = b"e0123456789+-. \t\n"  # also in keywords, of which the rest is unmistakable
_PATTERN = b"facet normal outer loop vertex vertex vertex endloop endfacet".translate(None, _NUMBER_LETTERS)
_BLOCK = 2**24  # bytes of a text that are read at a time


def read_stl(file: IO[bytes]) -> Arrays:
    """Reads an open file.

    Raises:
        InvalidInputError: no STL file, or one that is cut short, longer than its header says, or without a triangle.
    """
    content = file.read()
    is_text = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:5].lower() == b"solid" and 0 not in content[:_HEADER]
    cloud = _read_text(content) if is_text else _read_binary(content)
    count = len(cloud["points"]) // 3
    if not count:
        raise InvalidInputError("it has no triangles.")
    return {**cloud, "corners": np.arange(3 * count), "sizes": np.broadcast_to(np.int64(3), count)}


def _read_binary(content: bytes) -> Arrays:
    count = int.from_bytes(content[80:_HEADER], "little")
    extra = len(content) - _HEADER - count * _FACET.itemsize
    if len(content) < _HEADER or extra < 0:
        whole = max(len(content) - _HEADER, 0) // _FACET.itemsize
        raise InvalidInputError(f"cut short: {whole} of {count} triangles; a text begins with `solid`.")
    if extra:
        raise InvalidInputError(f"it has {extra} bytes more than its header says.")
    rows = np.frombuffer(content, _FACET, count, _HEADER)
    cloud: Arrays = {"points": rows["corners"].reshape(-1, 3).astype(np.float32)}
    if rows["attribute"].any():
        cloud["unread"] = np.array(["the attributes of its triangles, which are colours in some programs"])
    return cloud


def _read_text(content: bytes) -> Arrays:
    text = clean_text(content, comments=False).lower()
    del content
    corners, place = [np.zeros((0, 3, 3), np.float32)], 0
    while (start := text.find(b"solid", place)) >= 0:
        _check_blank(text[place:start])
        body = text.find(b"\n", start) + 1 or len(text)
        end = text.find(b"endsolid", body)
        if end < 0:
            raise InvalidInputError(f"cut short: its solid {len(corners)} has no end, a line `endsolid`.")
        corners.append(_read_facets(text, body, end))
        place = text.find(b"\n", end) + 1 or len(text)
    _check_blank(text[place:])
    return {"points": np.concatenate(corners).reshape(-1, 3)}


def _read_facets(text: bytes, start: int, end: int) -> NDArray[Any]:
    """Returns the corners (facets, 3, 3) of the triangles of one solid."""
    corners = [np.zeros((0, 3, 3), np.float32)]
    while start < end:
        stop = text.find(b"endfacet", min(start + _BLOCK, end), end) + len(b"endfacet")
        stop = stop if stop >= len(b"endfacet") else end
        block = text[start:stop]
        start = stop
        # some programs write `nan` for the normal of a facet without area
        letters = block.translate(None, _NUMBER_LETTERS).replace(b"nan", b"")
        count = len(letters) // len(_PATTERN)
        for keyword in _KEYWORDS:
            block = block.replace(keyword, b"")
        lines = NumberLines(block)
        if letters != _PATTERN * count or len(lines) != 4 * count or (lines.counts != 3).any():
            other = np.flatnonzero(lines.counts != 3)
            raise InvalidInputError(
                f"expected facets of a normal and three vertices; found {lines.line(other[0] if len(other) else 0)!r}."
            )
        rows = lines.read_rows(0, len(lines), np.float64)
        corners.append(rows.reshape(count, 4, 3)[:, 1:])
    return np.concatenate(corners)


def _check_blank(text: bytes) -> None:
    if text.strip():
        raise InvalidInputError(f"expected lines from `solid` to `endsolid`; found {text.strip()[:40]!r} outside.")
