"""What the data sets of objects share: one object a file, normalised, and counts that are checked against the release."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.errors import InvalidInputError


def read_objects(paths: Sequence[Path], points: int, title: str) -> dict[str, Any]:
    """Reads one object a file, with a progress bar: `points`, and `normals` and `rgb` where every file has them.

    Every array has at most `points` rows, drawn by a seed that is a hash of the file's name, and is centred and within the
    unit sphere. Objects of equal size come as one array, (M, N, 3), others as a list.
    """
    # disable=None: no bar where the output is no terminal
    objects = [_read_object(path, points) for path in tqdm(paths, desc=title, unit="file", disable=None)]
    names = [name for name in ("points", "normals", "rgb") if all(name in each for each in objects)]
    is_equal = len({len(each["points"]) for each in objects}) == 1
    lists = {name: [each[name] for each in objects] for name in names}
    return {name: np.stack(arrays) if is_equal else arrays for name, arrays in lists.items()}


def _read_object(path: Path, points: int) -> Arrays:
    seed = hash_name(path.name)
    cloud = read_cloud(path, points, seed)
    if len(cloud["points"]) > points:
        chosen = np.random.default_rng(seed).choice(len(cloud["points"]), points, replace=False)
        cloud = {name: array[chosen] for name, array in cloud.items()}
    return {**cloud, "points": to_unit_sphere(cloud["points"])}


def to_unit_sphere(points: NDArray[Any]) -> NDArray[np.float32]:
    """Centres (N, 3) points on their mean and scales the farthest to a distance of 1; equal points come to lie at 0.

    Example:
        >>> to_unit_sphere(np.array([[1, 0, 0], [5, 0, 0]])).tolist()
        [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    centred = points - points.mean(0, dtype=np.float64)
    radius = np.linalg.norm(centred, axis=1).max()
    scaled: NDArray[np.float32] = (centred / (radius if radius > 0 else 1)).astype(np.float32)
    return scaled


def hash_name(name: str) -> int:
    """Returns a number from 0 to 2**64 - 1 that follows from a file's name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def check_counts(folder: Path, counts: tuple[int, int], official: tuple[int, int]) -> None:
    """Raises an InvalidInputError unless both splits have as many clouds as the official release."""
    if counts != official:
        raise InvalidInputError(
            f"{folder}: expected {official[0]:,} training and {official[1]:,} test clouds, as the official release has; "
            f"found {counts[0]:,} and {counts[1]:,}. Complete the download, or load it with check=False."
        )
