"""Data sets in one .npz file: clouds with a class each, scenes of equal numbers of points, or objects and their parts."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.arrays import Arrays, check_arrays, check_range, read_arrays, select_arrays, unit_normals
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet
from i2p_zoo.data.unit_sphere import UNIT_SPHERE, normalize_clouds, to_unit_sphere
from i2p_zoo.errors import InvalidInputError

_SCENES = ("points", "unit", "label", "split", "classes")
_PARTS = ("points", "part", "split", "parts")
_COARSE = ("coarse_of_part", "coarse_parts")
_OPTIONAL = ("normals", "names", "family", "scale")
_ADVICE = (
    "Expected an .npz file of scenes (points (S, N, 3), unit, label (S, N), classes and split (S,)) or of objects in parts "
    "(points (S, N, 3), part (S, N), parts, coarse_of_part, coarse_parts and split (S,)), such as boards.npz or "
    "kicad-parts.npz."
)


def load_npz(path: str | os.PathLike[str]) -> tuple[CloudSet, CloudSet]:
    """Reads a classification file: `points` (M, N, 3), `label` (M,), `split` (M,) 0 train and 1 test, `classes`.

    Each cloud is centred on its mean and scaled to the unit sphere, as those of every data set of objects and of
    `i2p-zoo predict` are; the size that it had, `scale` (M,), may stand in the file and is not needed. The file may also have
    `normals` (M, N, 3), floats or int8 of 127 times a unit vector, `colors` (M, N, 3), and `family` (M,), what must not be
    divided when a part of the training split is held out.

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
    arrays = select_arrays(path, arrays, ("points", "label", "split", "classes"), ("scale", "normals", "colors", "family"))
    check_arrays(path, arrays, label_axes=1)
    check_range(path, "label", arrays["label"], len(arrays["classes"]))
    points = normalize_clouds(arrays["points"])
    labels, classes = arrays["label"].astype(np.int64), tuple(map(str, arrays["classes"]))
    normals = unit_normals(arrays["normals"]) if "normals" in arrays else None
    whole = CloudSet(points, labels, classes, normals, arrays.get("colors"), arrays.get("family"), UNIT_SPHERE)
    return whole.subset(arrays["split"] == 0), whole.subset(arrays["split"] == 1)


def load_scene_npz(path: str | os.PathLike[str], coarse: bool = True, colors: bool = False) -> tuple[SceneSet, SceneSet]:
    """Reads a file of scenes, such as boards.npz, or of objects in parts, such as kicad-parts.npz.

    Scenes are `points` (S, N, 3) in steps of `unit`, `label` (S, N) and `classes`. Objects have an array `part` (S, N)
    instead, and `parts`, their names; `coarse_of_part` gives the row of `coarse_parts` that each part belongs to. Both have
    `split` (S,), 0 train and 1 test, and may have `normals` (S, N, 3), floats or int8 of 127 times a unit vector, `colors`
    (S, N, 3) uint8, `names` (S,), and `family` (S,), what must not be divided when a part of the training split is held out.
    A label or part of -1 is no class, and of an unsigned type the largest number, which -1 becomes there.

    Args:
        path: an .npz file; pickled arrays are refused.
        coarse: whether the parts of an object count as the coarse ones: dark and light plastic are one body.
        colors: whether scenes have `rgb`. In both files above the class nearly follows from the colour.

    Returns:
        The train and the test split: scenes in the unit of `unit`, millimetres in boards.npz, and objects centred on their
        mean and scaled to the unit sphere, whatever their `scale` (S,). The file's arrays stay in memory as they are and are
        converted a scene at a time.

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
    kept: Arrays = {name: arrays[name] for name in ("points", "unit", "normals", "colors") if name in arrays}
    whole = SceneSet(tuple(map(str, names)), classes, partial(_scene, {**kept, "labels": labels}), groups)
    return whole.subset(arrays["split"] == 0), whole.subset(arrays["split"] == 1)


def _labels(path: Path, arrays: Arrays) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Returns (S, N) labels and the names of their classes; -1, or what that becomes in an unsigned type, is none."""
    name, list_name = ("part", "parts") if "part" in arrays else ("label", "classes")
    labels, names = arrays[name], arrays[list_name]
    if labels.dtype.kind == "u" and (is_none := labels == np.iinfo(labels.dtype).max).any() and len(names) < labels.max():
        labels = np.where(is_none, IGNORED, labels.astype(np.int64))
    check_range(path, name, labels, len(names), lowest=IGNORED)
    if "coarse_of_part" in arrays:
        coarse = arrays["coarse_of_part"]
        if coarse.shape != names.shape:
            raise InvalidInputError(f"{path}: coarse_of_part must be {names.shape}, as parts; found {coarse.shape}.")
        check_range(path, "coarse_of_part", coarse, len(arrays["coarse_parts"]))
        labels, names = np.where(labels == IGNORED, IGNORED, coarse.astype(np.int64)[labels]), arrays["coarse_parts"]
    return labels, tuple(map(str, names))


def _scene(arrays: Arrays, number: int) -> Scene:
    points = arrays["points"][number]
    is_scene = "unit" in arrays
    points = points.astype(np.float32) * np.float32(arrays["unit"]) if is_scene else to_unit_sphere(points)
    scene: Scene = {"points": points, "labels": arrays["labels"][number].astype(np.int64)}
    if "normals" in arrays:
        scene["normals"] = unit_normals(arrays["normals"][number])
    if "colors" in arrays:
        scene["rgb"] = arrays["colors"][number].copy()
    return scene
