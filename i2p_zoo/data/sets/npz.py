"""Classification data sets in one .npz file."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.errors import InvalidInputError, NotFoundError


def load_npz(path: str | os.PathLike[str]) -> tuple[CloudSet, CloudSet]:
    """Reads a classification file: `points` (M, N, 3), `label` (M,), `split` (M,) 0 train and 1 test, `classes`.

    Each cloud is scaled into the unit sphere by `scale` (M,), where the file has it, else by its largest norm. The file may
    also have `normals` (M, N, 3), floats or int8 of 127 times a unit vector, `colors` (M, N, 3), and `family` (M,), what is
    not to be divided when a part of the training split is held out.

    Args:
        path: an .npz file; pickled arrays are refused.

    Returns:
        The train and the test split.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: an array is missing or does not fit the others.
    """
    path = Path(path)
    arrays = read_arrays(path, "The repository carries tests/data/kicad-mini.npz.")
    missing = sorted({"points", "label", "split", "classes"} - arrays.keys())
    if missing:
        raise InvalidInputError(f"{path}: lacks the arrays {missing}; it has {sorted(arrays)}.")
    _check_arrays(path, arrays)
    points, labels = arrays["points"].astype(np.float32), arrays["label"].astype(np.int64)
    classes = tuple(str(name) for name in arrays["classes"])
    scale = arrays["scale"] if "scale" in arrays else np.linalg.norm(points, axis=2).max(1)
    points = points / np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)[:, None, None]
    normals = arrays.get("normals")
    if normals is not None:
        normals = unit_normals(normals)
    whole = CloudSet(points, labels, classes, normals, arrays.get("colors"), arrays.get("family"))
    train, test = (whole.subset(np.flatnonzero(arrays["split"] == number)) for number in (0, 1))
    return train, test


def read_arrays(path: Path, hint: str) -> dict[str, NDArray[Any]]:
    """Returns a file's arrays by name.

    Raises:
        NotFoundError: no such file; the message ends with the hint.
        InvalidInputError: no readable .npz file, or one with pickled arrays.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. {hint}")
    try:
        with path.open("rb") as file:
            return load_arrays(file)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInputError(f"{path}: no readable .npz file: {error}") from error


def load_arrays(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an open file by name; raises InvalidInputError for another kind of file, and as numpy does."""
    start = file.read(2)
    if start != b"PK":  # of which numpy says that it may not be unpickled
        found = f"it begins with {start!r}" if start else "it is empty (0 bytes)"
        raise InvalidInputError(f"no .npz file, as numpy.savez writes it: {found}.")
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def check_values(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises InvalidInputError for a third split, and as `check_kinds`."""
    if not np.isin(arrays["split"], (0, 1)).all():
        raise InvalidInputError(f"{path}: split must be 0 for train or 1 for test; found {np.unique(arrays['split'])}.")
    check_kinds(f"{path}:", arrays)


def check_positive(path: Path, name: str, values: NDArray[Any]) -> None:
    """Raises InvalidInputError unless all values are positive and finite as float32."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not (np.isfinite(single) & (single > 0)).all():
        raise InvalidInputError(f"{path}: {name} must be positive and finite; found {single.min()} to {single.max()}.")


def check_kinds(place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises InvalidInputError, which begins with the place, for normals and colours whose scale their type does not tell."""
    for name, kinds in (("normals", "int8 float16 float32 float64"), ("colors", "uint8")):
        if name in arrays and str(arrays[name].dtype) not in kinds.split():
            raise InvalidInputError(f"{place} {name} must be of {kinds.replace(' ', ', ')}; found {arrays[name].dtype}.")


def unit_normals(normals: NDArray[Any]) -> NDArray[np.float32]:
    """Returns float32 of floats or of int8, which are 127 times as long."""
    unit: NDArray[np.float32] = normals.astype(np.float32) / np.float32(127 if normals.dtype == np.int8 else 1)
    return unit


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    points, label, split, classes = (arrays[name] for name in ("points", "label", "split", "classes"))
    fits = points.ndim == 3 and points.shape[1] > 0 and points.shape[2] == 3 and label.shape == split.shape == points.shape[:1]
    if not fits or classes.ndim != 1:
        shapes = {name: arrays[name].shape for name in ("points", "label", "split", "classes")}
        raise InvalidInputError(f"{path}: needs points (M, N, 3), label (M,), split (M,) and classes (K,); found {shapes}.")
    for name, kinds in (("points", "fiu"), ("label", "iu"), ("split", "iub"), ("scale", "fiu")):
        if name in arrays and arrays[name].dtype.kind not in kinds:
            raise InvalidInputError(f"{path}: {name} holds values of type {arrays[name].dtype}, not numbers that fit.")
    check_values(path, arrays)
    if len(label) and not (label.min() >= 0 and label.max() < len(classes)):
        raise InvalidInputError(f"{path}: labels run from {label.min()} to {label.max()} for {len(classes)} classes.")
    if "scale" in arrays:
        if arrays["scale"].shape != label.shape:
            raise InvalidInputError(f"{path}: scale must be {label.shape}, one for each cloud; found {arrays['scale'].shape}.")
        check_positive(path, "scale", arrays["scale"])
