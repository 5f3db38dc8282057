"""One cloud or mesh from a file of any of the usual formats."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from i2p_zoo.data.files.arrays import Arrays, to_bytes
from i2p_zoo.data.files.formats import READERS
from i2p_zoo.data.files.paths import faults_named
from i2p_zoo.data.files.polygons import sample_surface
from i2p_zoo.errors import InvalidInputError, NotFoundError

SUFFIXES = tuple(READERS)


def read_cloud(path: str | os.PathLike[str], points: int = 2048, seed: int = 0, *, scene: bool = False) -> Arrays:
    """Reads a cloud, or samples a mesh uniformly by area.

    `.off`, `.obj`, `.stl` and a `.ply` with faces are meshes; a sampled point has the normal of its face, and colours of the
    mesh are left out. A `.ply` without faces and `.pcd`, `.las`, `.laz`, `.bin` (KITTI: float32 x, y, z, intensity), `.npy`
    ((N, 3) or more columns, of which the first three are read) and `.npz` (`points` with `normals`, floats or int8 of 127
    times a unit vector, and `rgb`, or its only array of three columns) are clouds and are returned whole.

    Coordinates stay as they are, with one exception: where float32 would round them by more than a 100,000th of the
    cloud's extent, such as metres in UTM, their mean is subtracted first.

    Args:
        path: one of the endings of `SUFFIXES`, in either case.
        points: how many to sample of a mesh.
        seed: of the sampling.
        scene: take a mesh's vertices, all of them in the file's order, in place of points sampled on it, and the intensity
            of a `.bin` as a fourth column.

    Returns:
        `points` (N, 3) float32, or (N, 4) with an intensity, and, where the file has them, `normals` (N, 3) float32 and `rgb`
        (N, 3) uint8.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: another ending, or a file that is empty, cut short or longer than its header says, without a point
            or a surface, not finite, or with colours of unknown range.
        MissingExtraError: the format's library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such file.")
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; expected one file, of {', '.join(SUFFIXES)}.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInputError(f"{path}: unknown ending {path.suffix!r}; the known ones are {', '.join(SUFFIXES)}.")
    if points < 1:
        raise InvalidInputError(f"`points` must be at least 1; got {points}.")
    if not path.stat().st_size:
        raise InvalidInputError(f"{path} is empty (0 bytes).")
    with faults_named(path), path.open("rb") as file, warnings.catch_warnings():
        # the only sign that older releases of numpy give when they stop at a word among the numbers
        warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
        cloud = reader(file)
        for name, rgb in (("colors", "rgb"), ("face_colors", "face_rgb")):
            if name in cloud:
                cloud[rgb] = to_bytes(cloud[name])
        if "sizes" in cloud and not scene:
            cloud = sample_surface(cloud, points, seed)
        checked = _checked(cloud)
    if scene and "intensity" in cloud:
        checked["points"] = np.concatenate([checked["points"], cloud["intensity"]], 1)
    return checked


def _checked(cloud: Arrays) -> Arrays:
    points = cloud["points"]
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InvalidInputError(f"expected at least one point of three coordinates; found shape {points.shape}.")
    for name in ("points", "normals"):
        if name in cloud and (cloud[name].dtype.kind not in "fiu" or not np.isfinite(cloud[name]).all()):
            raise InvalidInputError(f"its {name} hold values that are NaN, infinite or no numbers; remove them.")
    if points.dtype != np.float32:
        points = points.astype(np.float64)
        with np.errstate(over="ignore"):
            step, extent = np.spacing(np.abs(points).max().astype(np.float32)), np.ptp(points, axis=0).max()
        if 0 < extent < 1e5 * step:
            points = points - points.mean(0)
        if np.abs(points).max() > np.finfo(np.float32).max:
            raise InvalidInputError("its coordinates are beyond the range of float32.")
    result = {"points": np.array(points, np.float32)}
    for name, dtype in (("normals", np.float32), ("rgb", np.uint8)):
        if name in cloud:
            if cloud[name].shape != points.shape or (name == "rgb" and cloud[name].dtype != np.uint8):
                raise InvalidInputError(f"its {name} are {cloud[name].dtype} {cloud[name].shape} for {len(points)} points.")
            result[name] = np.array(cloud[name], dtype)
    return result
