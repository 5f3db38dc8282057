"""A folder of labelled scans as a data set of scenes: clouds of any size in files of any format that has labels."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.cloud_files import SUFFIXES, is_cloud_file, read_cloud
from i2p_zoo.data.files.formats import COLUMN_READERS
from i2p_zoo.data.files.paths import require_folder, sort_paths
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet
from i2p_zoo.data.sets.class_lists import LAS_NO_CLASS, ClassList, list_own_codes, read_class_list
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.sparse.point_features import FIELD

LIST = "classes.txt"
ADVICE = (
    "It must hold the folders train and test (or val) of clouds with a class for each point, such as .las, .laz, .ply or .npz, "
    f"and may hold {LIST}, lines such as `2 ground`."
)
LABEL_NAMES = "label labels class classes classification segment semantic sem_class sem_label".split()
"""Of fields that hold labels, in either case; CloudCompare writes `scalar_` before them."""
_TEST_NAMES = ("test", "val", "validation")
_LAS = (".las", ".laz")
_LARGEST = 2**24  # up to which float32 holds every whole number


def load_scans(
    folder: str | os.PathLike[str],
    *,
    label: str | None = None,
    classes: str | None = None,
    test: str | None = None,
    columns: str | None = None,
) -> tuple[SceneSet, SceneSet]:
    """Lists the files of `train` and `test`, in which every point has a label.

    Files are read when their scenes are asked for; sub-folders are looked through, and files of other endings are left out,
    with a warning. Coordinates stay as the files have them. Labels are the field `classification` of LAS, or one of such a name
    as `label`, `class`, `segment` or CloudCompare's `scalar_Label`; -1, 255 and NaN, as CloudCompare has it, are no class.

    Without a list of classes the training files are read once for the codes that they have. LAS names them (2 ground, 5 high
    vegetation, 6 building), and its 0 and 1, never classified and unclassified, are no class; elsewhere codes are the names.

    Args:
        folder: of the data set.
        label: the field that holds the labels, where several could or another does.
        classes: a file as `read_class_list` takes it; by default the folder's `classes.txt`, where there is one.
        test: name of the folder of the test split; by default `test`, or else `val`.
        columns: of `.bin`, `.npy` and texts, as `read_cloud` takes them.

    Returns:
        The train and the test split. Scenes have every number of a point that their files have, but the labels.

    Raises:
        NotFoundError: no such folder, split or list.
        InvalidInputError: a split without clouds, or a list that is none; when a scene is read, labels that cannot be told from
            other fields, that are no whole numbers, or that the list does not have.
    """
    folder = require_folder(folder, ADVICE)
    train_paths, test_paths = _list_files(folder / "train"), _list_files(_find_test(folder, test))
    listing = folder / LIST if classes is None else Path(classes).expanduser()
    if classes is not None or listing.is_file():
        class_list = read_class_list(listing)
    else:
        class_list = _collect_classes(folder, train_paths, label, columns)
    train_set, test_set = (
        SceneSet(
            tuple(path.relative_to(folder).as_posix() for path in paths),
            class_list.names,
            partial(_load_scan, tuple(paths), label, columns, class_list),
            codes=class_list.codes,
            varied=True,
        )
        for paths in (train_paths, test_paths)
    )
    return train_set, test_set


def _find_test(folder: Path, name: str | None) -> Path:
    names = _TEST_NAMES if name is None else (name,)
    present = [folder / each for each in names if (folder / each).is_dir()]
    if not present:
        raise NotFoundError(f"{folder}: no folder {' or '.join(names)}. {ADVICE}")
    if len(present) > 1:
        others = ", ".join(path.name for path in present[1:])
        warnings.warn(f"{folder}: {present[0].name} is the test split and {others} is left out.", stacklevel=4)
    return present[0]


def _list_files(folder: Path) -> list[Path]:
    inside = [path for path in sort_paths(require_folder(folder, ADVICE).rglob("*")) if path.is_file()]
    files = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    clouds = [path for path in files if is_cloud_file(path)]
    if not clouds:
        raise InvalidInputError(f"{folder}: it has no file of {', '.join(SUFFIXES)}.")
    if others := sort_paths(set(files) - set(clouds)):
        warnings.warn(f"{folder}: {len(others)} files such as {others[0].name!r} are no clouds and are left out.", stacklevel=4)
    return clouds


def _collect_classes(folder: Path, paths: Sequence[Path], label: str | None, columns: str | None) -> ClassList:
    """Returns the classes that training files have, each read once."""
    codes: set[int] = set()
    for path in tqdm(paths, desc=f"classes of {folder.name}", unit="file", disable=None):
        _, own_codes = _read_scan(path, label, columns)
        codes.update(np.unique(own_codes).tolist())
    is_las = label in (None, "classification") and all(path.suffix.lower() in _LAS for path in paths)
    if is_las and (left := codes & set(LAS_NO_CLASS)):
        warnings.warn(
            f"{folder}: points of the classification {_join(left)} are no class to LAS and are left out; a {LIST} with such "
            "lines as `1 other` and `2 ground` makes them one.",
            stacklevel=4,
        )
    return list_own_codes(codes, is_las, str(folder))


def _load_scan(paths: Sequence[Path], label: str | None, columns: str | None, class_list: ClassList, number: int) -> Scene:
    path = paths[number]
    scene, codes = _read_scan(path, label, columns)
    labels, unknown = class_list.to_labels(codes)
    if len(unknown):
        raise InvalidInputError(
            f"{path}: it has the labels {_join(unknown.tolist())}, and {class_list.source} has "
            f"{_join(class_list.class_of_code)}. List them in a {LIST}, such as `{unknown[0]} ignored` for points to leave out."
        )
    return {**scene, "labels": labels}


def _read_scan(path: Path, label: str | None, columns: str | None) -> tuple[Arrays, NDArray[np.int64]]:
    """Returns a file's arrays without its labels, and those as they are there, (N,), `IGNORED` for NaN."""
    has_names = path.suffix.lower() not in COLUMN_READERS
    scene = read_cloud(path, scene=True, columns=None if has_names else columns)
    key = _find_label(path, scene, label)
    values = scene.pop(key)[:, 0]
    codes = np.where(np.isnan(values), IGNORED, values)
    if (codes != np.round(codes)).any() or np.abs(codes).max() > _LARGEST:
        odd = codes[(codes != np.round(codes)) | (np.abs(codes) > _LARGEST)][0]
        raise InvalidInputError(f"{path}: {key} has the value {odd:g}; labels are whole numbers of up to {_LARGEST:,}.")
    return scene, codes.astype(np.int64)


def _find_label(path: Path, scene: Arrays, label: str | None) -> str:
    fields = {name.removeprefix(FIELD): name for name in scene if name.startswith(FIELD)}
    if label in fields:
        return fields[label]
    names = LABEL_NAMES if label is None else [_plain(label)]
    likely = [name for name in fields if _plain(name) in names]
    if len(likely) != 1:
        problem = f"{_join(likely)} may each be its labels" if likely else f"no field is called {_join(names[:5])}"
        raise InvalidInputError(
            f"{path}: {problem}; its fields are {_join(fields)}. Name the one that holds the labels: `scans:FOLDER,label=NAME`."
        )
    return fields[likely[0]]


def _plain(name: str) -> str:
    return name.lower().removeprefix("scalar_")


def _join(words: Iterable[object]) -> str:
    return ", ".join(map(str, words)) or "none"
