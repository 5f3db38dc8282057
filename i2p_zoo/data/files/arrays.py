"""Arrays by name, as .npz files hold them, and what the arrays of labelled clouds must be, normals and colours among them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.paths import faults_named, require_file
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.sparse.colors import full_brightness
from i2p_zoo.staging import replacing

Arrays = dict[str, NDArray[Any]]

# How many of the axes of `points`, (clouds, points, 3), an array has.
_AXES = {"normals": 3, "colors": 3, "part": 2, "scale": 1, "split": 1, "names": 1, "family": 1, "unit": 0}
_SYNONYMS = {
    "points": ("coord", "coords", "xyz", "pos", "position", "positions"),
    "normals": ("normal",),
    "colors": ("rgb", "color", "colour", "colours"),
    "intensity": ("strength",),
}
_LISTS = ("classes", "parts", "coarse_parts")
_TYPES = {"floats": np.floating, "integers": np.integer, "booleans": np.bool_, "int8": np.int8, "uint8": np.uint8}
_BLOCK = 2**14  # rows that are converted at a time
_ALLOWED = {
    **dict.fromkeys(("points", "scale"), ("floats", "integers")),
    **dict.fromkeys(("label", "part", "coarse_of_part"), ("integers",)),
    "unit": ("floats",),
    "split": ("integers", "booleans"),
    "normals": ("int8", "floats"),  # of other integers the scale would be unknown
    "colors": ("uint8",),
}


def read_arrays(path: Path, advice: str) -> Arrays:
    """Returns the arrays of an .npz file by name; pickled ones are refused.

    Raises:
        NotFoundError: no such file; the message ends with the advice.
        InvalidInputError: no .npz file, or one that cannot be read.
    """
    require_file(path, advice)
    with faults_named(path), path.open("rb") as file:
        return load_arrays(file)


def load_arrays(file: IO[bytes]) -> Arrays:
    """Returns the arrays of an open file by name; raises InvalidInputError for another kind of file, and as numpy does."""
    start = file.read(2)
    if start != b"PK":  # of which numpy says that it may not be unpickled
        content = f"it begins with {start!r}" if start else "it is empty (0 bytes)"
        raise InvalidInputError(f"no .npz file, as numpy.savez writes it: {content}.")
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def standard_arrays(arrays: Arrays) -> Arrays:
    """Returns arrays under the names `points`, `normals`, `colors` and `intensity`, whichever of the usual ones they have.

    Raises:
        InvalidInputError: two arrays of one meaning.

    Example:
        >>> list(standard_arrays({"coord": np.zeros((2, 3)), "color": np.zeros((2, 3)), "label": np.zeros(2)}))
        ['label', 'points', 'colors']
    """
    named = dict(arrays)
    for name, synonyms in _SYNONYMS.items():
        present = [synonym for synonym in synonyms if synonym in arrays]
        if name in arrays or not present:
            continue
        if len(present) > 1:
            raise InvalidInputError(f"it has {' and '.join(present)}; expected one array of {name}.")
        named[name] = named.pop(present[0])
    return named


def read_cache(path: Path, fingerprint: str, names: Iterable[str]) -> Arrays | None:
    """Returns the arrays that a run kept, or None where there are none of the same fingerprint, or damaged ones."""
    try:
        arrays = read_arrays(path, "")
    except (NotFoundError, InvalidInputError):
        return None
    is_same = str(arrays.get("fingerprint")) == fingerprint and set(names) <= arrays.keys()
    return arrays if is_same else None


def write_cache(path: Path, fingerprint: str, consequence: str, **arrays: Any) -> None:
    """Keeps arrays that took long to make, under a fingerprint of what they were made of.

    Where the folder cannot be written it warns of the consequence.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, fingerprint=fingerprint, **arrays)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): {consequence}", stacklevel=4)


def select_arrays(path: Path, arrays: Arrays, required: Iterable[str], optional: Iterable[str]) -> Arrays:
    """Returns the named arrays of a file; raises InvalidInputError where a required one is missing, or stands there twice."""
    with faults_named(path):
        arrays = standard_arrays(arrays)
    missing = sorted(set(required) - arrays.keys())
    if missing:
        raise InvalidInputError(f"{path}: lacks the arrays {missing}; it has {sorted(arrays)}.")
    return {name: arrays[name] for name in (*required, *optional) if name in arrays}


def check_arrays(path: Path, arrays: Arrays, label_axes: int) -> None:
    """Raises InvalidInputError for arrays of clouds or scenes whose shapes, types or values do not fit.

    Args:
        path: of the file, for the message.
        arrays: by name, `points` (clouds, points, 3) among them.
        label_axes: 1 where `label` has an entry for each cloud, 2 for each point.
    """
    points = arrays["points"]
    if points.ndim != 3 or points.shape[1] == 0 or points.shape[2] != 3:
        raise InvalidInputError(f"{path}: points must be (clouds, points, 3) with at least one point; found {points.shape}.")
    axes = {**_AXES, "label": label_axes}
    strange = [name for name, count in axes.items() if name in arrays and arrays[name].shape != points.shape[:count]]
    strange += [name for name in _LISTS if name in arrays and arrays[name].ndim != 1]
    if strange:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise InvalidInputError(f"{path}: the arrays {strange} do not fit points {points.shape}; the shapes are {shapes}.")
    check_dtypes(f"{path}:", arrays)
    if not np.isin(arrays["split"], (0, 1)).all():
        raise InvalidInputError(f"{path}: split must be 0 for train or 1 for test; found {np.unique(arrays['split'])}.")
    for name in ("unit", "scale"):
        if name in arrays:
            with np.errstate(over="ignore"):
                single = arrays[name].astype(np.float32)
            if not (np.isfinite(single) & (single > 0)).all():
                raise InvalidInputError(f"{path}: {name} must be positive and finite; found {single.min()} to {single.max()}.")


def check_dtypes(place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises InvalidInputError, which begins with the place, for an array of a type that its name does not allow."""
    for name, words in _ALLOWED.items():
        if name in arrays and not any(np.issubdtype(arrays[name].dtype, _TYPES[word]) for word in words):
            raise InvalidInputError(f"{place} {name} must be {' or '.join(words)}; found {arrays[name].dtype}.")


def check_range(path: Path, name: str, values: NDArray[Any], classes: int, lowest: int = 0) -> None:
    """Raises InvalidInputError unless all values are from the lowest to one less than the number of classes."""
    if values.size and not lowest <= values.min() <= values.max() < classes:
        raise InvalidInputError(f"{path}: {name} runs from {values.min()} to {values.max()} for {classes} classes.")


def unit_normals(normals: NDArray[Any]) -> NDArray[np.float32]:
    """Returns float32 (..., 3) of length 1, of vectors of any; those of length 0 stay, of points whose normal is unknown."""
    vectors = np.empty(normals.shape, np.float32)
    for start in range(0, len(normals), _BLOCK):
        block = vectors[start : start + _BLOCK]
        block[:] = normals[start : start + _BLOCK]
        lengths = np.sqrt(np.einsum("...d,...d->...", block, block))
        lengths[lengths == 0] = 1
        block /= lengths[..., None]
    return vectors


def to_bytes(colors: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns uint8 of the same shape, of colours of a file, by the range of all of them.

    It is `full_brightness`'s, which the colours of clouds in memory go by, but for one thing: integers of no more than 255 are
    bytes, since some writers put these into 16 bits, and a whole file is not so dark.

    Raises:
        InvalidInputError: numbers of no known range, or another type.

    Example:
        >>> to_bytes(np.array([[0.0, 0.2, 1.0]])).tolist(), to_bytes(np.array([[0, 257, 65535]], np.uint16)).tolist()
        ([[0, 51, 255]], [[0, 1, 255]])
    """
    low, high = colors.min(initial=0), colors.max(initial=0)
    if colors.dtype.kind in "iu" and low >= 0 and high <= 255:
        return colors.astype(np.uint8)
    try:
        if colors.dtype.kind not in "iuf":
            raise InvalidInputError(f"colours are {colors.dtype}; expected numbers.")
        full = full_brightness(colors.dtype.name, low, high, bool((colors == np.round(colors)).all()))
    except InvalidInputError as error:
        raise InvalidInputError(f"its {error}") from error
    converted = np.empty(colors.shape, np.uint8)
    for start in range(0, len(colors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        converted[rows] = np.round(np.minimum(colors[rows] / full, 1) * 255)
    return converted
