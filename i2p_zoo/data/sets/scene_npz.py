"""Segmentation data sets in one .npz file: scenes of equal numbers of points, or objects and their parts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.scenes import Scene, SceneSet
from i2p_zoo.data.sets.npz import check_positive, check_values, read_arrays, unit_normals
from i2p_zoo.errors import InvalidInputError

Arrays = Mapping[str, NDArray[Any]]

_SCENES = ("points", "unit", "label", "split", "classes")
_PARTS = ("points", "scale", "part", "split", "parts")
_COARSE = ("coarse_of_part", "coarse_parts")
_KINDS = {"points": "fiu", "unit": "f", "scale": "f", "label": "iu", "part": "iu", "split": "iub", "coarse_of_part": "iu"}


def load_scene_npz(path: str | os.PathLike[str], coarse: bool = True, colors: bool = False) -> tuple[SceneSet, SceneSet]:
    """Reads a file of scenes, such as boards.npz, or of objects in parts, such as kicad-parts.npz.

    Scenes are `points` (S, N, 3) in steps of `unit`, `label` (S, N) and `classes`. Objects have an array `part` (S, N)
    instead, `parts`, its names, and `scale` (S,), the largest norm of each one's points; `coarse_of_part` gives the row of
    `coarse_parts` that each part belongs to. Both have `split` (S,), 0 train and 1 test, and may have `normals` (S, N, 3),
    floats or int8 of 127 times a unit vector, `colors` (S, N, 3) uint8, `names` (S,), and `family` (S,), what is not to be
    divided when a part of the training split is held out.

    Args:
        path: an .npz file; pickled arrays are refused.
        coarse: whether the parts of an object count as the coarse ones: dark and light plastic are one body.
        colors: whether scenes have `rgb`. In both files above the class all but follows from the colour.

    Returns:
        The train and the test split: scenes in the unit of `unit`, millimetres in boards.npz, and objects within the unit
        sphere. The file's arrays stay in memory as they are and are converted a scene at a time.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: an array is missing or does not fit the others.
    """
    path = Path(path)
    arrays = read_arrays(path, "Expected one of scenes or of parts, such as boards.npz or kicad-parts.npz.")
    needed: tuple[str, ...] = _SCENES
    if "part" in arrays:
        needed = _PARTS + (_COARSE if coarse else ())
    if colors:
        needed = (*needed, "colors")
    missing = sorted(set(needed) - arrays.keys())
    if missing:
        raise InvalidInputError(f"{path}: lacks the arrays {missing}; it has {sorted(arrays)}.")
    fitting = {name: arrays[name] for name in (*needed, "normals", "names", "family") if name in arrays}
    _check_arrays(path, fitting)
    labels, classes = _labels(path, fitting)
    names = fitting.get("names", [f"{path.stem} {number}" for number in range(len(labels))])
    kept: dict[str, NDArray[Any]] = {"labels": labels}
    kept |= {name: fitting[name] for name in ("points", "unit", "scale", "normals", "colors") if name in fitting}
    groups = tuple(map(str, fitting["family"])) if "family" in fitting else None
    whole = SceneSet(tuple(map(str, names)), classes, partial(_scene, kept), groups)
    train, test = (whole.subset(np.flatnonzero(arrays["split"] == number)) for number in (0, 1))
    return train, test


def _labels(path: Path, arrays: Arrays) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Returns (S, N) labels and the names of their classes."""
    labels, names = (arrays["part"], arrays["parts"]) if "part" in arrays else (arrays["label"], arrays["classes"])
    _check_range(path, "part" if "part" in arrays else "label", labels, len(names))
    if "coarse_of_part" in arrays:
        coarse = arrays["coarse_of_part"]
        if coarse.shape != names.shape:
            raise InvalidInputError(f"{path}: coarse_of_part must be {names.shape}, as parts; found {coarse.shape}.")
        _check_range(path, "coarse_of_part", coarse, len(arrays["coarse_parts"]))
        labels, names = coarse[labels], arrays["coarse_parts"]
    return labels, tuple(map(str, names))


def _check_range(path: Path, name: str, values: NDArray[Any], count: int) -> None:
    if values.size and not 0 <= values.min() <= values.max() < count:
        raise InvalidInputError(f"{path}: {name} runs from {values.min()} to {values.max()} for {count} classes.")


def _check_arrays(path: Path, arrays: Arrays) -> None:
    points = arrays["points"]
    shapes = {name: array.shape for name, array in arrays.items()}
    if points.ndim != 3 or points.shape[1] == 0 or points.shape[2] != 3:
        raise InvalidInputError(f"{path}: points must be (S, N, 3) with at least one point; found {points.shape}.")
    expected: dict[str, tuple[int, ...]] = {"unit": (), "normals": points.shape, "colors": points.shape}
    expected |= dict.fromkeys(("label", "part"), points.shape[:2])
    expected |= dict.fromkeys(("scale", "split", "names", "family"), points.shape[:1])
    strange = [name for name, shape in expected.items() if name in shapes and shapes[name] != shape]
    strange += [name for name in ("classes", "parts", "coarse_parts") if len(shapes.get(name, (1,))) != 1]
    if strange:
        raise InvalidInputError(f"{path}: the arrays {strange} do not fit points {points.shape}; the shapes are {shapes}.")
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS.get(name, array.dtype.kind):
            raise InvalidInputError(f"{path}: {name} holds values of type {array.dtype}, which cannot be used.")
    check_values(path, arrays)
    for name in ("unit", "scale"):
        if name in arrays:
            check_positive(path, name, arrays[name])


def _scene(arrays: Arrays, number: int) -> Scene:
    points = arrays["points"][number].astype(np.float32)
    points = points * np.float32(arrays["unit"]) if "unit" in arrays else points / np.float32(arrays["scale"][number])
    found: Scene = {"points": points, "labels": arrays["labels"][number].astype(np.int64)}
    if "normals" in arrays:
        found["normals"] = unit_normals(arrays["normals"][number])
    if "colors" in arrays:
        found["rgb"] = arrays["colors"][number].copy()
    return found
