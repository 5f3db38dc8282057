"""The chunks of a LAZ file, checked before a decoder allocates what they claim: lazrs ends the process where it cannot."""

from __future__ import annotations

import os
import struct
from typing import IO

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError

_RECORD_HEADER = 54
_POINTWISE, _LAYERED = 1, 3  # LASzip's first compressor, which lazrs does not know, and its last
_VARIABLE = 2**32 - 1
_LARGEST_CHUNK = 2**24  # points; LASzip writes 50,000
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}  # by type of item: point, RGB, RGB and infrared, wave packet
_BYTES = 14  # the type of an item of extra bytes, which has a layer for each


def find_laszip(file: IO[bytes], start: int, end: int, records: int) -> bytes:
    """Returns the content of LASzip's record among so many from start to end, or nothing.

    Raises:
        InvalidInputError: a record that reaches past the end.
    """
    place = start
    for _ in range(records):
        file.seek(place)
        record = file.read(_RECORD_HEADER)
        if len(record) < _RECORD_HEADER:
            break
        user, (number, length) = record[2:18].rstrip(b"\0"), struct.unpack_from("<HH", record, 18)
        if place + _RECORD_HEADER + length > end:
            raise InvalidInputError(f"a variable length record at byte {place:,} reaches past the first point at {end:,}.")
        if (user, number) == (b"laszip encoded", 22204):
            return file.read(length)
        place += _RECORD_HEADER + length
    return b""


def check_chunks(file: IO[bytes], settings: bytes, start: int, point_size: int, count: int) -> None:
    """Raises InvalidInputError for a compressor that lazrs does not know, or for chunks that the file cannot hold.

    Args:
        file: an open file.
        settings: the content of LASzip's record.
        start: where the chunks begin, with the place of their table.
        point_size: of an uncompressed point, in bytes.
        count: of points, by the header.
    """
    if len(settings) < 34:
        raise InvalidInputError("it is compressed, and says nothing of how: it has no whole record of LASzip.")
    compressor, chunk_size, item_count = struct.unpack_from("<H10xI16xH", settings)
    if compressor <= _POINTWISE:
        raise InvalidInputError(
            "it is compressed point by point, as LASzip did before version 2; write it anew with laszip, LAStools or PDAL."
        )
    if not count:
        return
    size, table = os.fstat(file.fileno()).st_size, _find_table(file, start)
    file.seek(table)
    chunks = struct.unpack("<4xI", file.read(8))[0]
    if chunks * point_size > size or (chunk_size != _VARIABLE and not count <= chunks * chunk_size <= chunks * _LARGEST_CHUNK):
        raise InvalidInputError(f"its {chunks:,} chunks cannot hold the {count:,} points of its header.")
    lazrs = require("lazrs", "data")
    file.seek(start)
    counts, sizes = map(list, zip(*lazrs.read_chunk_table(file, lazrs.LazVlr(settings)), strict=True))
    if chunk_size == _VARIABLE and (sum(counts) != count or max(counts) > _LARGEST_CHUNK):
        raise InvalidInputError(f"its chunks have {sum(counts):,} points by their table, and {count:,} by its header.")
    if start + 8 + sum(sizes) > table:
        raise InvalidInputError(f"its chunks are {sum(sizes):,} bytes by their table, and there are {table - start - 8:,}.")
    if compressor == _LAYERED:
        _check_layers(file, settings, item_count, start + 8, sizes)


def _find_table(file: IO[bytes], start: int) -> int:
    size = os.fstat(file.fileno()).st_size
    file.seek(start)
    place = int(struct.unpack("<q", file.read(8).ljust(8, b"\0"))[0])
    if place == -1:  # of writers that could not go back: the place stands at the end
        file.seek(max(size - 8, 0))
        place = int(struct.unpack("<q", file.read(8).ljust(8, b"\0"))[0])
    if not start < place <= size - 8:
        raise InvalidInputError(f"cut short: its table of chunks should stand at byte {place:,} of {size:,}.")
    return place


def _check_layers(file: IO[bytes], settings: bytes, item_count: int, start: int, sizes: list[int]) -> None:
    """A chunk begins with a whole point, the number of points, and the size of each layer of bytes."""
    items = [
        struct.unpack_from("<HHH", settings, 34 + 6 * number) for number in range(min(item_count, len(settings[34:]) // 6))
    ]
    layers = sum(size if code == _BYTES else _LAYERS.get(code, 0) for code, size, _ in items)
    before = sum(size for _, size, _ in items) + 4
    for length in sizes:
        file.seek(start + before)
        head = file.read(4 * layers)
        if len(head) < 4 * layers or before + len(head) + sum(struct.unpack(f"<{layers}I", head)) > length:
            raise InvalidInputError(
                f"the layers of its chunk at byte {start:,} are larger than the chunk, of {length:,} bytes."
            )
        start += length
