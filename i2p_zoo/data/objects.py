"""What the data sets of objects share: PointNet's HDF5 files, or one object a file, normalised, and the release's counts."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.cloud_files import Losses, read_with_losses
from i2p_zoo.data.files.formats import COLUMN_READERS
from i2p_zoo.data.files.paths import faults_named, require_file
from i2p_zoo.data.unit_sphere import normalize_clouds, to_unit_sphere
from i2p_zoo.errors import InvalidInputError

POINTS = 2048


def read_objects(paths: Sequence[Path], points: int, title: str, columns: str | None = None) -> dict[str, Any]:
    """Reads one object a file, with a progress bar: `points`, and `normals` and `rgb` where every file has them.

    Every array has at most `points` rows, drawn by a seed that is a hash of the file's name, and is centred and within the
    unit sphere. Objects of equal size come as one array, (M, N, 3), others as a list. Points without coordinates, and normals
    or colours that only some of the files have, are left out with one warning each, which names a file and stands in `lacking`.
    """
    # disable=None: no bar where the output is no terminal
    pairs = [_read_object(path, points, columns) for path in tqdm(paths, desc=title, unit="file", disable=None)]
    objects = [cloud for cloud, _ in pairs]
    _warn_of_losses(paths, [losses for _, losses in pairs])
    lacking = _explain_lacking(paths, objects)
    names = [name for name in ("points", "normals", "rgb") if name in objects[0] and name not in lacking]
    is_equal = len({len(each["points"]) for each in objects}) == 1
    lists = {name: [each[name] for each in objects] for name in names}
    stacked: dict[str, Any] = {name: np.stack(arrays) if is_equal else arrays for name, arrays in lists.items()}
    return {**stacked, "lacking": lacking} if lacking else stacked


def _warn_of_losses(paths: Sequence[Path], losses: Sequence[Losses]) -> None:
    lossy = [path for path, each in zip(paths, losses, strict=True) if each.text()]
    if lossy:
        total = Losses.total(losses)
        warnings.warn(f"{len(lossy)} of {len(paths)} files such as {lossy[0]}: {total.text()}.", stacklevel=4)


def _explain_lacking(paths: Sequence[Path], objects: Sequence[Arrays]) -> dict[str, str]:
    """Returns, and warns, which file lacks normals or colours that others have."""
    lacking: dict[str, str] = {}
    for name in ("normals", "rgb"):
        without = [path for path, each in zip(paths, objects, strict=True) if name not in each]
        if 0 < len(without) < len(paths):
            lacking[name] = f"{len(without)} of {len(paths)} files have no {name}, such as {without[0]}."
            warnings.warn(f"{lacking[name]} The data set has none.", stacklevel=4)
    return lacking


def _read_object(path: Path, points: int, columns: str | None) -> tuple[Arrays, Losses]:
    seed = hash_name(path.name)
    cloud, losses = read_with_losses(path, points, seed, columns=columns if path.suffix.lower() in COLUMN_READERS else None)
    if len(cloud["points"]) > points:
        chosen = np.random.default_rng(seed).choice(len(cloud["points"]), points, replace=False)
        cloud = {name: array[chosen] for name, array in cloud.items()}
    return {**cloud, "points": to_unit_sphere(cloud["points"])}, losses


def hash_name(name: str) -> int:
    """Returns a number from 0 to 2**64 - 1 that follows from a file's name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")


def check_counts(folder: Path, counts: tuple[int, int], official: tuple[int, int]) -> None:
    """Raises an InvalidInputError unless both splits have as many clouds as the official release."""
    if counts != official:
        raise InvalidInputError(
            f"{folder}: expected {official[0]:,} training and {official[1]:,} test clouds, as the official release has; "
            f"found {counts[0]:,} and {counts[1]:,}. Complete the download, or load it with check=False."
        )


def read_hdf5(paths: Sequence[Path], classes: int) -> Arrays:
    """Reads the arrays of HDF5 files in PointNet's layout, of 2,048 points a cloud, and joins them.

    Args:
        paths: of the files of one split.
        classes: how many there are.

    Returns:
        `points` (M, 2048, 3) float32, each cloud centred on its mean and scaled to the unit sphere, `labels` (M,) int64 and,
        where every file has them, `normals` (M, 2048, 3) float32.

    Raises:
        NotFoundError: a file is missing.
        InvalidInputError: a file is damaged, lacks an array, or has one that does not fit.
        MissingExtraError: h5py is not installed.
    """
    h5py = require("h5py", "data")
    parts = []
    for path in paths:
        require_file(path, "The data set has it; complete the download.")
        with faults_named(path), h5py.File(path, "r") as file:
            missing = sorted({"data", "label"} - set(file))
            if missing:
                raise InvalidInputError(f"it lacks the arrays {missing}; it has {sorted(file)}.")
            names = {"data": "points", "label": "labels", "normal": "normals"}
            part = {ours: file[theirs][...] for theirs, ours in names.items() if theirs in file}
            _check_arrays(part, classes)
        part["labels"] = part["labels"].reshape(-1).astype(np.int64)
        parts.append(part)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if all(name in part for part in parts)}
    joined["points"] = normalize_clouds(joined["points"])
    return {name: array if name == "labels" else array.astype(np.float32, copy=False) for name, array in joined.items()}


def _check_arrays(part: Arrays, classes: int) -> None:
    points, labels = part["points"], part["labels"]
    count = len(points)
    if points.shape != (count, POINTS, 3) or labels.shape not in ((count,), (count, 1)) or not count:
        raise InvalidInputError(
            f"expected data (M, {POINTS}, 3) and label (M,) or (M, 1); found {points.shape}, {labels.shape}."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise InvalidInputError(f"labels must be integers of 0 to {classes - 1}; found {labels.min()} to {labels.max()}.")
    for name in ("points", "normals"):
        array = part.get(name, points)
        if array.shape != points.shape or array.dtype.kind != "f":
            raise InvalidInputError(f"its {name} must be floats {points.shape}; found {array.dtype} {array.shape}.")
        faulty = np.flatnonzero(~np.isfinite(array).all((1, 2)))
        if len(faulty):
            raise InvalidInputError(f"the {name} of cloud {faulty[0]} have values that are NaN or infinite.")
