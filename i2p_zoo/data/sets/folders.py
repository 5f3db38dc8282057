"""A folder of clouds and meshes as a classification data set: one sub-folder a class."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.cloud_files import SUFFIXES
from i2p_zoo.data.files.paths import require_folder
from i2p_zoo.data.objects import hash_name, read_objects
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError

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
    folder = require_folder(folder, "It must hold a sub-folder of clouds or meshes for each class.")
    listed = _list_files(folder)
    classes = tuple(sorted({name for name, _, _ in listed}))
    bare = sorted(set(classes) - {name for name, split, path in listed if split == "train" and path})
    if not classes or bare:
        problem = f"no file to train on in the classes {bare}" if bare else "it has no class sub-folders"
        layouts = "CLASS/train, train/CLASS or CLASS"
        raise InvalidInputError(f"{folder}: {problem}; expected files of {', '.join(SUFFIXES)} in each of {layouts}.")
    rows = [(path, classes.index(name), split) for name, split, path in listed if path]
    objects = read_objects([path for path, _, _ in rows], points, f"reading {folder.name}")
    labels = np.array([label for _, label, _ in rows], np.int64)
    whole = CloudSet(labels=labels, classes=classes, normalization=UNIT_SPHERE, **objects)
    splits = np.array([split for _, _, split in rows])
    return whole.subset(splits == "train"), whole.subset(splits == "test")


def _list_files(folder: Path) -> list[tuple[str, str, Path | None]]:
    """Returns class, split and path of each file; a class or split without files has one entry without a path."""
    top = _subfolders(folder)
    if any(split in top for split in _SPLITS):
        missing = [split for split in _SPLITS if split not in top]
        strange = sorted(set(top) - set(_SPLITS))
        if missing or strange:
            raise InvalidInputError(f"{folder}: expected train and test only; lacks {missing} and also has {strange}.")
        parts = [(name, split, path) for split in _SPLITS for name, path in _subfolders(top[split]).items()]
        return [(name, split, file) for name, split, path in parts for file in _files(path)]
    listed: list[tuple[str, str, Path | None]] = []
    for name, path in top.items():
        inner = _subfolders(path)
        if not set(inner) <= set(_SPLITS):
            raise InvalidInputError(
                f"{path}: expected files, or the folders train and test; found the folders {sorted(inner)}."
            )
        listed += [(name, split, file) for split, part in inner.items() for file in _files(part)]
        if not inner:
            listed += [(name, _split_of(file), file) for file in _files(path)]
    if len({bool(_subfolders(path)) for path in top.values()}) > 1:
        raise InvalidInputError(f"{folder}: some classes are divided into train and test and others are not.")
    return listed


def _split_of(path: Path | None) -> str:
    return "test" if path is not None and hash_name(path.name) % 5 == 0 else "train"


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _files(folder: Path) -> list[Path | None]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    known: list[Path | None] = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(known) < len(files):
        other = next(path.name for path in files if path.suffix.lower() not in SUFFIXES)
        warnings.warn(
            f"{folder}: {len(files) - len(known)} files such as {other!r} are not clouds and are left out.", stacklevel=4
        )
    return known or [None]
