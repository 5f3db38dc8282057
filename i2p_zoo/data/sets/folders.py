"""A folder of clouds and meshes as a classification data set: one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.readers import SUFFIXES, read_cloud
from i2p_zoo.errors import InvalidInputError, NotFoundError

_SPLITS = ("train", "test")


def load_folder(folder: str | os.PathLike[str], points: int = 2048) -> tuple[CloudSet, CloudSet]:
    """Reads class sub-folders of any files that `read_cloud` knows.

    The splits are `CLASS/train` and `CLASS/test`, or `train/CLASS` and `test/CLASS`. In a plain `CLASS/*` layout a file is
    of the test split by a hash of its name, one file in five on average: files added later move none to the other side.
    Files of other endings are left out, with a warning.

    Args:
        folder: holds the sub-folders, whose names are the classes.
        points: of each object; a cloud of more is drawn down to as many at random, one of fewer stays as it is.

    Returns:
        The train and the test split, each cloud centred on its mean and scaled to the unit sphere. They have normals or
        colours where every file has them.

    Raises:
        NotFoundError: no such folder.
        InvalidInputError: no sub-folder, a file that cannot be read, or a class without a file to train on.
    """
    folder = require_folder(folder, "It is to hold a sub-folder of clouds or meshes for each class.")
    listed = _list_files(folder)
    classes = tuple(sorted({name for name, _, _ in listed}))
    bare = sorted(set(classes) - {name for name, split, path in listed if split == "train" and path})
    if not classes:
        raise InvalidInputError(
            f"{folder}: it has no class sub-folders; expected files of {', '.join(SUFFIXES)} in each of "
            "CLASS/train, train/CLASS or CLASS."
        )
    if bare:
        raise InvalidInputError(
            f"{folder}: no file to train on in the classes {bare}; expected files of {', '.join(SUFFIXES)} in each of "
            "CLASS/train, train/CLASS or CLASS."
        )
    rows = [(path, classes.index(name), split) for name, split, path in listed if path]
    objects = read_objects([path for path, _, _ in rows], points, f"reading {folder.name}")
    whole = CloudSet(labels=np.array([label for _, label, _ in rows], np.int64), classes=classes, **objects)
    train, test = (whole.subset([row for row, (_, _, split) in enumerate(rows) if split == wanted]) for wanted in _SPLITS)
    return train, test


def require_folder(folder: str | os.PathLike[str], advice: str) -> Path:
    """Returns the path of a folder that exists; else raises a NotFoundError with the advice."""
    path = Path(folder)
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder. {advice}")
    return path


def check_counts(folder: Path, found: tuple[int, int], official: tuple[int, int]) -> None:
    """Raises an InvalidInputError unless both splits have as many clouds as the official release."""
    if found != official:
        raise InvalidInputError(
            f"{folder}: expected {official[0]:,} training and {official[1]:,} test clouds, as the official release has; "
            f"found {found[0]:,} and {found[1]:,}. Complete the download, or load it with check=False."
        )


def read_objects(paths: Sequence[Path], points: int, title: str) -> dict[str, Any]:
    """Reads one object a file, with a progress bar: `points`, and `normals` and `rgb` where every file has them.

    Every array has at most `points` rows, drawn by a seed that is a hash of the file's name, and is centred and within the
    unit sphere. Objects of equal size come as one array, (M, N, 3), others as a list.
    """
    # disable=None: no bar where nobody watches
    objects = [_read_object(path, points) for path in tqdm(paths, desc=title, unit="file", disable=None)]
    names = [name for name in ("points", "normals", "rgb") if all(name in found for found in objects)]
    equal = len({len(found["points"]) for found in objects}) == 1
    lists = {name: [found[name] for found in objects] for name in names}
    return {name: np.stack(arrays) if equal else arrays for name, arrays in lists.items()}


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


def _read_object(path: Path, points: int) -> dict[str, NDArray[Any]]:
    seed = _hash(path.name)
    found = read_cloud(path, points, seed)
    if len(found["points"]) > points:
        chosen = np.random.default_rng(seed).choice(len(found["points"]), points, replace=False)
        found = {name: array[chosen] for name, array in found.items()}
    return {**found, "points": to_unit_sphere(found["points"])}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _list_files(folder: Path) -> list[tuple[str, str, Path | None]]:
    """Returns class, split and path of each file; a class or split without files has one entry without a path."""
    top = _subfolders(folder)
    if any(split in top for split in _SPLITS):
        missing = [split for split in _SPLITS if split not in top]
        strange = sorted(set(top) - set(_SPLITS))
        if missing or strange:
            raise InvalidInputError(f"{folder}: expected train and test alone; lacks {missing} and has {strange} besides.")
        parts = [(name, split, path) for split in _SPLITS for name, path in _subfolders(top[split]).items()]
        return [(name, split, file) for name, split, path in parts for file in _files(path)]
    listed: list[tuple[str, str, Path | None]] = []
    for name, path in top.items():
        inner = _subfolders(path)
        if inner and not set(inner) <= set(_SPLITS):
            raise InvalidInputError(
                f"{path}: expected files, or the folders train and test; found the folders {sorted(inner)}."
            )
        if inner:
            listed += [(name, split, file) for split, part in inner.items() for file in _files(part)]
        else:
            listed += [(name, _split_of(file), file) for file in _files(path)]
    if len({bool(_subfolders(path)) for path in top.values()}) > 1:
        raise InvalidInputError(f"{folder}: some classes are divided into train and test and others are not.")
    return listed


def _split_of(path: Path | None) -> str:
    return "test" if path is not None and _hash(path.name) % 5 == 0 else "train"


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _files(folder: Path) -> list[Path | None]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    known: list[Path | None] = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(known) < len(files):
        other = next(path.name for path in files if path.suffix.lower() not in SUFFIXES)
        warnings.warn(f"{folder}: {len(files) - len(known)} files such as {other!r} are no clouds and left out.", stacklevel=4)
    return known or [None]
