""".bin files: nothing but float32, so that somebody must say how many there are of each point."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.named_columns import Columns, divide_rows
from i2p_zoo.data.files.value_blocks import bound_of, read_blocks
from i2p_zoo.errors import InvalidInputError

_NAMES = {3: ("x", "y", "z"), 4: ("x", "y", "z", "intensity"), 5: ("x", "y", "z", "intensity", "ring")}
_ADVICE = (
    "say what its columns are: columns=4 (KITTI: x, y, z, intensity), 5 (nuScenes: with a ring), 3, or names such as "
    "x,y,z,r,g,b or x,y,z,nx,ny,nz."
)
_CLOUDCOMPARE = b"CCB2"
_WIDTHS = range(3, 17)
_FEWEST, _SAMPLE = 16, 200_000  # points and values by which a width is told
_BLOCK = 2**15  # values whose differences are taken at a time
_MARGIN = 0.1  # by which neighbours at a distance of four must be nearer than at others
_LARGEST = 1e15


def read_bin(file: IO[bytes], columns: Columns | None) -> Arrays:
    """Reads rows of little-endian float32.

    What is not said by `columns` or by the name (`.pcd.bin`, nuScenes) is taken for KITTI's x, y, z, intensity only where the
    values show four columns: none is out of place, the fourth is not negative, and neighbouring values resemble one another
    most at a distance of four.

    Raises:
        InvalidInputError: a file of CloudCompare, a buffer of glTF, no whole number of points, or columns that cannot be told.
    """
    if file.read(len(_CLOUDCOMPARE)) == _CLOUDCOMPARE:
        raise InvalidInputError(
            "it is CloudCompare's own file, which holds more than points; save the cloud there as .ply or .las."
        )
    file.seek(0)
    path = Path(os.fsdecode(file.name))
    size = path.stat().st_size
    if columns is None and path.name.lower().endswith(".pcd.bin"):
        columns = 5
    width = columns if isinstance(columns, int) else len(columns or ()) or 4
    if size % (4 * width):
        many = f"{width} columns are {4 * width} bytes a point" if columns else "of four columns it would be 16 bytes a point"
        raise InvalidInputError(f"{many}, of which its {size} bytes are no multiple; {_ADVICE}")
    if columns is None and is_gltf_buffer(path):
        raise InvalidInputError(f"a .gltf file stands beside it, whose buffer it may be; {_ADVICE}")
    values: NDArray[Any] = np.empty(size // 4, "<f4")
    blocks = read_blocks(file, values)
    minuses: list[bool] = []
    bound = bound_of(blocks if columns else _note_minuses(blocks, minuses))
    values = values.astype(np.float32, copy=False)
    if columns is None:
        _check_kitti(values, any(minuses))
    rows = values.reshape(-1, width)
    cloud = divide_rows(rows, columns if isinstance(columns, tuple) else _NAMES.get(width, width))
    return cloud | {"bound": np.array(bound)}


def is_gltf_buffer(path: Path) -> bool:
    """Whether a .bin file stands beside a .gltf file."""
    return _has_gltf(path.parent, path.parent.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _has_gltf(folder: Path, _: int) -> bool:
    return any(each.suffix.lower() == ".gltf" for each in folder.iterdir())


def _note_minuses(blocks: Iterable[NDArray[Any]], minuses: list[bool]) -> Iterator[NDArray[Any]]:
    """Yields blocks of rows of four as they come, and notes whether any fourth number of each has a minus, as 0 and NaN can."""
    for block in blocks:
        minuses.append(bool(np.signbit(block[3::4]).any()))
        yield block


def _check_kitti(values: NDArray[np.float32], has_minus: bool) -> None:
    sample = values[:_SAMPLE]
    with np.errstate(invalid="ignore"):  # signalling NaN, as other content may be read
        size = np.abs(sample)
        usual = (size == 0) | ((size >= np.finfo(np.float32).tiny) & (size <= _LARGEST))
    if not usual.all():
        raise InvalidInputError(f"it has the value {sample[usual.argmin()]:g}, which no coordinate has; {_ADVICE}")
    if len(values) < 4 * _FEWEST:
        raise InvalidInputError(f"its {len(values)} numbers are too few to tell the columns by; {_ADVICE}")
    if has_minus and (values[3::4] < 0).any():
        raise InvalidInputError(f"read as four columns, the fourth would be no intensity, which is not negative; {_ADVICE}")
    difference = _mean_differences(sample)
    largest = {width: value * ((1 - _MARGIN) if width % 4 else (1 + _MARGIN)) for width, value in difference.items()}
    if not difference[4] < min(largest.values()):
        raise InvalidInputError(f"its values do not tell whether it has 4 columns or another number; {_ADVICE}")


def _mean_differences(sample: NDArray[np.float32]) -> dict[int, float]:
    """The mean absolute difference of values at each distance; in blocks, since new large arrays take longer than the sums."""
    totals = dict.fromkeys(_WIDTHS, 0.0)
    space = np.empty(_BLOCK, np.float32)
    for start in range(0, len(sample), _BLOCK):
        part = sample[start : start + _BLOCK + _WIDTHS[-1]]
        for width in _WIDTHS:
            later = part[width : width + _BLOCK]
            differences = np.subtract(later, part[: len(later)], out=space[: len(later)])
            totals[width] += float(np.abs(differences, out=differences).sum())
    return {width: total / (len(sample) - width) for width, total in totals.items()}
