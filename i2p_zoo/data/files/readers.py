"""One cloud or mesh from a file of any of the usual formats, and clouds with colours back into a file."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.colors import to_bytes
from i2p_zoo.data.files.formats import READERS as _READERS
from i2p_zoo.data.files.formats import Found
from i2p_zoo.data.files.polygons import triangulate
from i2p_zoo.errors import InvalidInputError, MissingExtraError, NotFoundError
from i2p_zoo.staging import replacing

SUFFIXES = tuple(_READERS)


def read_cloud(path: str | os.PathLike[str], points: int = 2048, seed: int = 0, *, scene: bool = False) -> Found:
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
        `points` (N, 3) float32, or (N, 4) with an intensity, and, where there are, `normals` (N, 3) float32 and `rgb` (N, 3)
        uint8.

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
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInputError(f"{path}: unknown ending {path.suffix!r}; the known ones are {', '.join(SUFFIXES)}.")
    if points < 1:
        raise InvalidInputError(f"`points` must be at least 1; got {points}.")
    if not path.stat().st_size:
        raise InvalidInputError(f"{path} is empty (0 bytes).")
    with faults_named(path), path.open("rb") as file, warnings.catch_warnings():
        # by which alone older releases of numpy tell that they stopped at a word among the numbers
        warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
        found = reader(file)
        if "sizes" in found and not scene:
            found = _sample_surface(found["points"], found["corners"], found["sizes"], points, seed)
        if "colors" in found:
            found["rgb"] = to_bytes(found["colors"])
        intensity = found.pop("intensity", None)
        checked = _checked(found)
    if scene and intensity is not None:
        checked["points"] = np.concatenate([checked["points"], intensity], 1)
    return checked


@contextlib.contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turns whatever a library raises over the content of a file into an InvalidInputError that names the file."""
    try:
        yield
    except (MissingExtraError, MemoryError):
        raise
    except Exception as error:  # the formats' libraries raise anything from struct.error to their own
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, InvalidInputError) else str(error)
        raise InvalidInputError(f"{path} cannot be read: {reason}") from error


def write_colored_ply(path: str | os.PathLike[str], points: NDArray[Any], rgb: NDArray[np.uint8]) -> None:
    """Writes a cloud with a colour for each point as a binary PLY file, whole or not at all.

    Args:
        path: of the file; one that exists is replaced.
        points: (N, 3) numbers, written as float32.
        rgb: (N, 3) uint8.

    Raises:
        InvalidInputError: arrays of other shapes or types.
        NotFoundError: the folder does not exist.
    """
    path = Path(path)
    if points.ndim != 2 or points.shape[1] != 3 or rgb.shape != points.shape or rgb.dtype != np.uint8:
        raise InvalidInputError(f"Expected points (N, 3) and rgb (N, 3) uint8; got {points.shape} and {rgb.shape} {rgb.dtype}.")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path}: there is no folder {path.parent}; create it first.")
    rows = np.empty(len(points), [("position", "<f4", 3), ("color", "u1", 3)])
    rows["position"], rows["color"] = points, rgb
    properties = [f"property float {name}" for name in "xyz"] + [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())


def _sample_surface(vertices: NDArray[Any], named: NDArray[Any], sizes: NDArray[Any], points: int, seed: int) -> Found:
    if not len(sizes):
        raise InvalidInputError("a mesh without faces; a cloud of points can be a .ply file without any.")
    vertices = vertices.astype(np.float64)
    faces = triangulate(vertices, named, sizes)
    corners = vertices[faces]  # (F, 3, 3)
    if not np.isfinite(corners).all():
        raise InvalidInputError("vertices have coordinates that are NaN or infinite.")
    origins, sides = corners[:, 0], corners[:, 1:] - corners[:, :1]
    with np.errstate(over="ignore", invalid="ignore"):
        normals = np.cross(sides[:, 0], sides[:, 1])
        areas = np.linalg.norm(normals, axis=1)
    total = areas.sum()
    if not 0 < total < np.inf:
        raise InvalidInputError(f"the mesh's {len(faces)} faces have an area of {total / 2}.")
    random = np.random.default_rng(seed)
    chosen = random.choice(len(faces), points, p=areas / total)
    weights = random.random((points, 2))
    weights[weights.sum(1) > 1] = 1 - weights[weights.sum(1) > 1]  # the other half of the parallelogram, folded back
    found = origins[chosen] + (weights[:, :, None] * sides[chosen]).sum(1)
    return {"points": found, "normals": normals[chosen] / areas[chosen, None]}


def _checked(found: Found) -> Found:
    points = found["points"]
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InvalidInputError(f"expected at least one point of three coordinates; found shape {points.shape}.")
    for name in ("points", "normals"):
        if name in found and (found[name].dtype.kind not in "fiu" or not np.isfinite(found[name]).all()):
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
    for name, kind in (("normals", np.float32), ("rgb", np.uint8)):
        if name in found:
            if found[name].shape != points.shape or (name == "rgb" and found[name].dtype != np.uint8):
                raise InvalidInputError(f"its {name} are {found[name].dtype} {found[name].shape} for {len(points)} points.")
            result[name] = np.array(found[name], kind)
    return result
