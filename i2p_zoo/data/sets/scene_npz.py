"""Segmentation data sets in one .npz file: scenes of equal numbers of points, or objects and their parts."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays, check_arrays, check_range, read_arrays, select_arrays, unit_normals
from i2p_zoo.data.scenes import Scene, SceneSet
from i2p_zoo.errors import InvalidInputError

_SCENES = ("points", "unit", "label", "split", "classes")
_PARTS = ("points", "scale", "part", "split", "parts")
_COARSE = ("coarse_of_part", "coarse_parts")
_OPTIONAL = ("normals", "names", "family")
_ADVICE = (
    "Expected an .npz file of scenes (points (S, N, 3), unit, label (S, N), classes and split (S,)) or of objects in parts "
    "(points (S, N, 3), scale (S,), part (S, N), parts, coarse_of_part, coarse_parts and split (S,)), such as boards.npz or "
    "kicad-parts.npz."
)


def load_scene_npz(path: str | os.PathLike[str], coarse: bool = True, colors: bool = False) -> tuple[SceneSet, SceneSet]:
    """Reads a file of scenes, such as boards.npz, or of objects in parts, such as kicad-parts.npz.

    Scenes are `points` (S, N, 3) in steps of `unit`, `label` (S, N) and `classes`. Objects have an array `part` (S, N)
    instead, `parts`, their names, and `scale` (S,), the largest norm of each one's points; `coarse_of_part` gives the row of
    `coarse_parts` that each part belongs to. Both have `split` (S,), 0 train and 1 test, and may have `normals` (S, N, 3),
    floats or int8 of 127 times a unit vector, `colors` (S, N, 3) uint8, `names` (S,), and `family` (S,), what must not be
    divided when a part of the training split is held out.

    Args:
        path: an .npz file; pickled arrays are refused.
        coarse: whether the parts of an object count as the coarse ones: dark and light plastic are one body.
        colors: whether scenes have `rgb`. In both files above the class nearly follows from the colour.

    Returns:
        The train and the test split: scenes in the unit of `unit`, millimetres in boards.npz, and objects within the unit
        sphere. The file's arrays stay in memory as they are and are converted a scene at a time.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: an array is missing or does not fit the others.
    """
    path = Path(path)
    arrays = read_arrays(path, _ADVICE)
    required = _PARTS + (_COARSE if coarse else ()) if "part" in arrays else _SCENES
    arrays = select_arrays(path, arrays, (*required, "colors") if colors else required, _OPTIONAL)
    check_arrays(path, arrays, label_axes=2)
    labels, classes = _labels(path, arrays)
    names = arrays.get("names", [f"{path.stem} {number}" for number in range(len(labels))])
    groups = tuple(map(str, arrays["family"])) if "family" in arrays else None
    kept: Arrays = {name: arrays[name] for name in ("points", "unit", "scale", "normals", "colors") if name in arrays}
    whole = SceneSet(tuple(map(str, names)), classes, partial(_scene, {**kept, "labels": labels}), groups)
    train, test = (whole.subset(arrays["split"] == number) for number in (0, 1))
    return train, test


def _labels(path: Path, arrays: Arrays) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Returns (S, N) labels and the names of their classes."""
    name, list_name = ("part", "parts") if "part" in arrays else ("label", "classes")
    labels, names = arrays[name], arrays[list_name]
    check_range(path, name, labels, len(names))
    if "coarse_of_part" in arrays:
        coarse = arrays["coarse_of_part"]
        if coarse.shape != names.shape:
            raise InvalidInputError(f"{path}: coarse_of_part must be {names.shape}, as parts; found {coarse.shape}.")
        check_range(path, "coarse_of_part", coarse, len(arrays["coarse_parts"]))
        labels, names = coarse[labels], arrays["coarse_parts"]
    return labels, tuple(map(str, names))


def _scene(arrays: Arrays, number: int) -> Scene:
    points = arrays["points"][number].astype(np.float32)
    points = points * np.float32(arrays["unit"]) if "unit" in arrays else points / np.float32(arrays["scale"][number])
    scene: Scene = {"points": points, "labels": arrays["labels"][number].astype(np.int64)}
    if "normals" in arrays:
        scene["normals"] = unit_normals(arrays["normals"][number])
    if "colors" in arrays:
        scene["rgb"] = arrays["colors"][number].copy()
    return scene
