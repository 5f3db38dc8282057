"""Classification data sets in one .npz file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.arrays import check_arrays, check_range, read_arrays, select_arrays, unit_normals

_REQUIRED = ("points", "label", "split", "classes")
_OPTIONAL = ("scale", "normals", "colors", "family")


def load_npz(path: str | os.PathLike[str]) -> tuple[CloudSet, CloudSet]:
    """Reads a classification file: `points` (M, N, 3), `label` (M,), `split` (M,) 0 train and 1 test, `classes`.

    Each cloud is scaled into the unit sphere by `scale` (M,), where the file has it, else by its largest norm. The file may
    also have `normals` (M, N, 3), floats or int8 of 127 times a unit vector, `colors` (M, N, 3), and `family` (M,), what must
    not be divided when a part of the training split is held out.

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
    arrays = select_arrays(path, arrays, _REQUIRED, _OPTIONAL)
    check_arrays(path, arrays, label_axes=1)
    check_range(path, "label", arrays["label"], len(arrays["classes"]))
    points, labels = arrays["points"].astype(np.float32), arrays["label"].astype(np.int64)
    classes = tuple(map(str, arrays["classes"]))
    scale = arrays["scale"] if "scale" in arrays else np.linalg.norm(points, axis=2).max(1)
    points = points / np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)[:, None, None]
    normals = unit_normals(arrays["normals"]) if "normals" in arrays else None
    whole = CloudSet(points, labels, classes, normals, arrays.get("colors"), arrays.get("family"))
    train, test = (whole.subset(arrays["split"] == number) for number in (0, 1))
    return train, test
