""".bin files: nothing but float32, so that somebody must say how many there are of each point."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.named_columns import Columns, divide_rows
from i2p_zoo.errors import InvalidInputError

_NAMES = {3: ("x", "y", "z"), 4: ("x", "y", "z", "intensity"), 5: ("x", "y", "z", "intensity", "ring")}
_ADVICE = (
    "say what its columns are: columns=4 (KITTI: x, y, z, intensity), 5 (nuScenes: with a ring), 3, or names such as "
    "x,y,z,r,g,b or x,y,z,nx,ny,nz."
)
_WIDTHS = range(3, 17)
_FEWEST, _SAMPLE = 16, 200_000  # points and values by which a width is told
_MARGIN = 0.1  # by which neighbours at a distance of four must be nearer than at others
_LARGEST = 1e15


def read_bin(file: IO[bytes], columns: Columns | None) -> Arrays:
    """Reads rows of little-endian float32.

    What is not said by `columns` or by the name (`.pcd.bin`, nuScenes) is taken for KITTI's x, y, z, intensity only where the
    values show four columns: none is out of place, the fourth is not negative, and neighbouring values resemble one another
    most at a distance of four.

    Raises:
        InvalidInputError: no whole number of points, a buffer of a glTF file, or columns that cannot be told.
    """
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
    values: NDArray[Any] = np.fromfile(file, "<f4").astype(np.float32, copy=False)
    if columns is None:
        _check_kitti(values)
    return divide_rows(values.reshape(-1, width), columns if isinstance(columns, tuple) else _NAMES.get(width, width))


def is_gltf_buffer(path: Path) -> bool:
    """Whether a .bin file stands beside a .gltf file."""
    return _has_gltf(path.parent, path.parent.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _has_gltf(folder: Path, _: int) -> bool:
    return any(each.suffix.lower() == ".gltf" for each in folder.iterdir())


def _check_kitti(values: NDArray[np.float32]) -> None:
    sample = values[:_SAMPLE].astype(np.float64)
    size = np.abs(sample)
    strange = (size > _LARGEST) | ((size > 0) & (size < np.finfo(np.float32).tiny)) | ~np.isfinite(size)
    if strange.any():
        raise InvalidInputError(f"it has the value {sample[strange.argmax()]:g}, which no coordinate has; {_ADVICE}")
    if len(values) < 4 * _FEWEST:
        raise InvalidInputError(f"its {len(values)} numbers are too few to tell the columns by; {_ADVICE}")
    if (values[3::4] < 0).any():
        raise InvalidInputError(f"read as four columns, the fourth would be no intensity, which is not negative; {_ADVICE}")
    difference = {width: np.abs(sample[width:] - sample[:-width]).mean() for width in _WIDTHS}
    largest = {width: value * ((1 - _MARGIN) if width % 4 else (1 + _MARGIN)) for width, value in difference.items()}
    if not difference[4] < min(largest.values()):
        raise InvalidInputError(f"its values do not tell whether it has 4 columns or another number; {_ADVICE}")
