"""A folder of clouds and meshes as a classification data set: one sub-folder a class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.cloud_files import SUFFIXES, is_cloud_file
from i2p_zoo.data.files.paths import name_as_text, require_folder, sort_paths
from i2p_zoo.data.objects import hash_name, read_objects
from i2p_zoo.data.sets.split_lists import LIST_FOLDER, read_split_lists
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError

_SPELLINGS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
_SPLITS = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}


class _Listed(NamedTuple):
    """A class and split, train, test or val, with a file of it, or None where they have none."""

    name: str
    split: str
    path: Path | None


def load_folder(
    folder: str | os.PathLike[str], points: int = 2048, columns: str | None = None, test: str | None = None
) -> tuple[CloudSet, CloudSet]:
    """Reads class sub-folders of any files that `read_cloud` knows.

    The splits are `CLASS/train` and `CLASS/test`, or `train/CLASS` and `test/CLASS`; `val` counts as the test split where there
    is no `test` or `test="val"` asks for it. In a plain `CLASS/*` layout a file is of the split whose list names it, such as
    `modelnet40_train.txt` or ShapeNetPart's `train_test_split/*.json`; without lists one file in five, on average, is of the
    test split by a hash of its name: files added later move none to the other side. Files may lie deeper, as ShapeNet's
    `CLASS/MODEL/models/model_normalized.obj` do. What is left out, such as textures, is counted in a warning.

    Args:
        folder: holds the sub-folders, whose names are the classes.
        points: of each object; a cloud of more is drawn down to as many at random, one of fewer stays as it is.
        columns: of `.bin`, `.npy` and texts, as `read_cloud` takes them.
        test: which split is the test split, "test" or "val".

    Returns:
        The train and the test split, each cloud centred on its mean and scaled to the unit sphere. They have normals or
        colours where every file has them.

    Raises:
        NotFoundError: no such folder.
        InvalidInputError: no sub-folder, a file that cannot be read, a class without a file to train on, or no such split.
    """
    folder = require_folder(folder, "It must hold a sub-folder of clouds or meshes for each class.")
    left_out: list[Path] = []
    listed = _choose_splits(folder, _list_files(folder, left_out), test)
    classes = tuple(sorted({each.name for each in listed}))
    bare = sorted(set(classes) - {each.name for each in listed if each.split == "train" and each.path})
    if not classes or bare:
        problem = f"no file to train on in the classes {bare}" if bare else "it has no class sub-folders"
        layouts = "CLASS/train, train/CLASS or CLASS"
        raise InvalidInputError(f"{folder}: {problem}; expected files of {', '.join(SUFFIXES)} in each of {layouts}.")
    _warn_of_files(folder, left_out)
    rows = [(each.path, classes.index(each.name), each.split) for each in listed if each.path]
    objects = read_objects([path for path, _, _ in rows], points, f"reading {folder.name}", columns)
    labels = np.array([label for _, label, _ in rows], np.int64)
    named = tuple(map(name_as_text, classes))
    whole = CloudSet(labels=labels, classes=named, normalization=UNIT_SPHERE, **objects)
    splits = np.array([split for _, _, split in rows])
    return whole.subset(splits == "train"), whole.subset(splits == "test")


def load_unlabelled(
    folder: str | os.PathLike[str], classes: tuple[str, ...], points: int = 2048, columns: str | None = None
) -> CloudSet:
    """Reads all files below a folder that `read_cloud` knows, as clouds that may be of any class.

    Args:
        folder: holds files at any depth; the names of its sub-folders say nothing.
        classes: that the clouds may have.
        points, columns: as `load_folder` takes them.

    Returns:
        The clouds, centred and scaled as `load_folder`'s. Their labels are soft, each class as likely as any other.

    Raises:
        NotFoundError: no such folder.
        InvalidInputError: no file, or one that cannot be read.
    """
    folder = require_folder(folder, "It must hold clouds or meshes.")
    files = list(_walk(folder))
    paths = [path for path in files if is_cloud_file(path)]
    if not paths:
        raise InvalidInputError(f"{folder}: there is no file of {', '.join(SUFFIXES)} in it.")
    _warn_of_files(folder, [path for path in files if not is_cloud_file(path)])
    objects = read_objects(paths, points, f"reading {folder.name}", columns)
    labels = np.full((len(paths), len(classes)), 1 / len(classes), np.float32)
    return CloudSet(labels=labels, classes=classes, normalization=UNIT_SPHERE, **objects)


def _list_files(folder: Path, left_out: list[Path]) -> list[_Listed]:
    """Returns every file, and adds what is no cloud, or a cloud outside the classes, to what is left out."""
    top = _subfolders(folder)
    left_out += [path for path in _files(folder) if is_cloud_file(path)]
    if any(name in _SPLITS for name in top):
        strange = sorted(set(top) - set(_SPLITS))
        missing = (
            {"train", "test"} - {_SPLITS[name] for name in top if name in _SPLITS} - ({"test"} if _has_val(top) else set())
        )
        if missing or strange:
            raise InvalidInputError(
                f"{folder}: expected train and test only, and maybe val; lacks {sorted(missing)} and also has {strange}."
            )
        left_out += [path for split in top.values() for path in _files(split) if is_cloud_file(path)]
        parts = [(name, split, path) for split in top for name, path in _subfolders(top[split]).items()]
        return [each for name, split, path in parts for each in _list_class(name, _SPLITS[split], path, left_out)]
    top.pop(LIST_FOLDER, None)
    listed: list[_Listed] = []
    divided = {name: [inner for inner in _subfolders(path) if inner in _SPLITS] for name, path in top.items()}
    if len(set(map(bool, divided.values()))) > 1:
        raise InvalidInputError(f"{folder}: some classes are divided into train and test and others are not.")
    for name, path in top.items():
        inner = _subfolders(path)
        if divided[name]:
            if len(divided[name]) < len(inner):
                raise InvalidInputError(
                    f"{path}: expected files, or the folders train, test and val; found the folders {sorted(inner)}."
                )
            left_out += [file for file in _files(path) if is_cloud_file(file)]
            listed += [each for split, part in inner.items() for each in _list_class(name, _SPLITS[split], part, left_out)]
        else:
            listed += _list_class(name, "", path, left_out)
    return listed if any(divided.values()) else _divide(folder, listed, left_out)


def _has_val(top: dict[str, Path]) -> bool:
    return any(_SPLITS.get(name) == "val" for name in top)


def _list_class(name: str, split: str, folder: Path, left_out: list[Path]) -> list[_Listed]:
    files = list(_walk(folder))
    clouds = [path for path in files if is_cloud_file(path)]
    left_out += sort_paths(set(files) - set(clouds))
    return [_Listed(name, split, path) for path in clouds] or [_Listed(name, split, None)]


def _choose_splits(folder: Path, listed: list[_Listed], test: str | None) -> list[_Listed]:
    """Returns the training files, and those to test on as the split test."""
    splits = {each.split for each in listed}
    chosen = test or ("val" if "val" in splits and "test" not in splits else "test")
    if test is not None and test not in splits - {"train"}:
        raise InvalidInputError(f"{folder}: test={test!r}; it has the splits {sorted(splits)}.")
    others = [each for each in listed if each.split not in ("train", chosen) and each.path]
    if others:
        unused = others[0].split
        warnings.warn(
            f"{folder}: the {unused} split of {len(others)} files is not read; `test={unused}` measures on it.", stacklevel=3
        )
    kept = [each for each in listed if each.split in ("train", chosen)]
    return [each._replace(split="test" if each.split == chosen else "train") for each in kept]


def _warn_of_files(folder: Path, left_out: list[Path]) -> None:
    if left_out:
        counts = Counter(path.suffix.lower() or path.name for path in left_out)
        words = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
        first = left_out[0].relative_to(folder).as_posix()
        warnings.warn(
            f"{folder}: {len(left_out)} files that are no clouds, or in no class, are left out: {words}, such as {first!r}.",
            stacklevel=3,
        )


def _divide(folder: Path, listed: list[_Listed], left_out: list[Path]) -> list[_Listed]:
    """Gives files of undivided classes their splits, by lists or by a hash of their names within the class."""
    lists = read_split_lists(folder)
    divided = []
    for each in listed:
        if each.path is None:
            divided.append(each._replace(split="train"))
        elif lists and each.path.stem not in lists:
            left_out.append(each.path)
        else:
            name = each.path.relative_to(folder / each.name).as_posix()
            divided.append(each._replace(split=lists.get(each.path.stem) or ("train" if hash_name(name) % 5 else "test")))
    return divided


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sort_paths(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _files(folder: Path) -> list[Path]:
    return [path for path in sort_paths(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def _walk(folder: Path) -> Iterator[Path]:
    yield from _files(folder)
    for inner in _subfolders(folder).values():
        yield from _walk(inner)
