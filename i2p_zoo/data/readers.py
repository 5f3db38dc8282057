"""One cloud or mesh from a file of any of the usual formats, and clouds with colours back into a file."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError, MissingExtraError, NotFoundError

Found = dict[str, NDArray[Any]]  # `points`, or `vertices` and `faces`; `normals` and `rgb` where the file has them


def read_cloud(path: str | os.PathLike[str], points: int = 2048, seed: int = 0) -> Found:
    """Reads a cloud, or samples a mesh uniformly by area.

    `.off`, `.obj`, `.stl` and a `.ply` with faces are meshes; a sampled point has the normal of its face, and colours of the
    mesh are left out. A `.ply` without faces and `.pcd`, `.las`, `.laz`, `.bin` (KITTI: float32 x, y, z, intensity), `.npy`
    ((N, 3) or more columns, of which the first three are read) and `.npz` (`points` with `normals` and `rgb`, or its only
    array of three columns) are clouds and are returned whole.

    Coordinates stay as they are, with one exception: where float32 would round them by more than a 100,000th of the
    cloud's extent, such as metres in UTM, their mean is subtracted first.

    Args:
        path: one of the endings of `SUFFIXES`, in either case.
        points: how many to sample of a mesh.
        seed: of the sampling.

    Returns:
        `points` (N, 3) float32 and, where there are, `normals` (N, 3) float32 and `rgb` (N, 3) uint8.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: another ending, or a file that is empty, cut short, without a point or a surface, or not finite.
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
    with faults_named(path), path.open("rb") as file, warnings.catch_warnings():
        # by which alone older releases of numpy tell that they stopped at a word among the numbers
        warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
        found = reader(file)
        if "faces" in found:
            found = _sample_surface(found["vertices"], found["faces"], points, seed)
        return _checked(found)


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file beside `path` to write, which takes its place at the end, or is deleted on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _sample_surface(vertices: NDArray[Any], faces: NDArray[Any], points: int, seed: int) -> Found:
    if not len(faces):
        raise InvalidInputError("a mesh without faces; a cloud of points can be a .ply file without any.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InvalidInputError(f"faces name vertices {faces.min()} to {faces.max()} of {len(vertices)}.")
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
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


def _read_off(file: IO[bytes]) -> Found:
    text = re.sub("#.*", "", file.read().decode("latin-1"))
    header = re.match(r"\s*[A-Z]*OFF\s*(\d+)\s+(\d+).*", text)  # some of ModelNet's have the counts right behind `OFF`
    if header is None:
        raise InvalidInputError("an OFF file begins with `OFF` and the counts of its vertices and faces.")
    count, face_count = int(header[1]), int(header[2])
    lines = [line for line in text[header.end() :].splitlines() if line.strip()]
    if not count or len(lines) < count + face_count:
        raise InvalidInputError(f"{len(lines)} of the lines of its {count} vertices and {face_count} faces: it is cut short.")
    vertices = np.loadtxt(lines[:count], np.float64, usecols=(0, 1, 2), ndmin=2)
    return {"vertices": vertices, "faces": _triangles(lines[count : count + face_count])}


def _triangles(lines: list[str]) -> NDArray[np.int64]:
    """Divides polygons, each a line of its number of corners and their vertices, into triangles (F, 3)."""
    if {line.split(None, 1)[0] for line in lines} == {"3"}:  # numpy reads them ten times as fast
        return np.loadtxt(lines, np.int64, usecols=(1, 2, 3), ndmin=2)
    rows = [[int(word) for word in line.split()[: int(line.split(None, 1)[0]) + 1]] for line in lines]
    if any(len(row) <= row[0] for row in rows):
        raise InvalidInputError("a face has fewer vertices than its line says: the file is cut short.")
    return np.array([(row[1], *pair) for row in rows for pair in itertools.pairwise(row[2:])], np.int64).reshape(-1, 3)


def _read_ply(file: IO[bytes]) -> Found:
    ply = require("trimesh.exchange.ply", "data")
    loaded = ply.load_ply(file, skip_materials=True)
    for name, element in loaded["metadata"]["_ply_raw"].items():
        data = element.get("data", ())
        rows = len(next(iter(data.values()))) if isinstance(data, dict) else len(data)
        if rows < element["length"]:
            raise InvalidInputError(f"cut short: {rows} of {element['length']} rows of the element {name!r}.")
    if "vertices" not in loaded:
        raise InvalidInputError("it has no vertices.")
    if loaded.get("faces") is not None:
        triangulate = require("trimesh.geometry", "data").triangulate_quads
        return {"vertices": loaded["vertices"], "faces": triangulate(loaded["faces"])}
    found = {"points": loaded["vertices"]}
    if loaded.get("vertex_normals") is not None:
        found["normals"] = loaded["vertex_normals"]
    if loaded.get("vertex_colors") is not None:
        found["rgb"] = require("trimesh.visual.color", "data").to_rgba(loaded["vertex_colors"])[:, :3]
    return found


def _read_mesh(kind: str) -> Callable[[IO[bytes]], Found]:
    def read(file: IO[bytes]) -> Found:
        mesh = require("trimesh", "data").load(file, file_type=kind, force="mesh", process=False, skip_materials=True)
        return {"vertices": np.asarray(mesh.vertices), "faces": np.asarray(mesh.faces)}

    return read


def _read_pcd(file: IO[bytes]) -> Found:
    cloud = require("pypcd4", "data").PointCloud.from_fileobj(file)
    rows = np.atleast_1d(cloud.pc_data)
    if len(rows) < cloud.metadata.points:
        raise InvalidInputError(f"cut short: {len(rows)} of {cloud.metadata.points} points.")
    found = {"points": np.stack([rows[name] for name in "xyz"], 1)}
    names = rows.dtype.names or ()
    normals = ("normal_x", "normal_y", "normal_z")
    if set(normals) <= set(names):
        found["normals"] = np.stack([rows[name] for name in normals], 1)
    packed = next((name for name in ("rgb", "rgba") if name in names), None)
    if packed:  # four bytes, blue first, also where they are declared as a float
        found["rgb"] = np.array(rows[packed]).view(np.uint8).reshape(-1, 4)[:, 2::-1]
    return found


def _read_las(file: IO[bytes]) -> Found:
    las = require("laspy", "data").read(file, closefd=False)
    if len(las.points) < las.header.point_count:
        raise InvalidInputError(f"cut short: {len(las.points)} of {las.header.point_count} points.")
    found = {"points": np.asarray(las.xyz)}
    if "red" in las.point_format.dimension_names:
        rgb = np.stack([las.red, las.green, las.blue], 1).astype(np.float64)
        # 16 bits by the standard, which some writers fill with 8-bit values
        found["rgb"] = np.round(rgb / (257 if rgb.max(initial=0) > 255 else 1)).astype(np.uint8)
    return found


def _read_laz(file: IO[bytes]) -> Found:
    require("lazrs", "data")  # which laspy looks for by itself
    return _read_las(file)


def _read_kitti(file: IO[bytes]) -> Found:
    content = file.read()
    if len(content) % 16:
        raise InvalidInputError(f"expected 16 bytes a point (float32 x, y, z, intensity); found {len(content)} bytes.")
    return {"points": np.frombuffer(content, "<f4").reshape(-1, 4)[:, :3]}


def _read_npy(file: IO[bytes]) -> Found:
    array = np.lib.format.read_array(file, allow_pickle=False)
    if array.ndim != 2 or array.shape[1] < 3:
        raise InvalidInputError(f"expected an array (N, 3) or of more columns; found {array.shape}.")
    return {"points": array[:, :3]}


def _read_npz(file: IO[bytes]) -> Found:
    with np.load(file, allow_pickle=False) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    if "points" in arrays:
        return {name: arrays[name] for name in ("points", "normals", "rgb") if name in arrays}
    candidates = {name: array for name, array in arrays.items() if array.ndim == 2 and array.shape[1] == 3}
    if len(candidates) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise InvalidInputError(f"expected an array `points`, or one array (N, 3); found {shapes}.")
    return {"points": next(iter(candidates.values()))}


_READERS: dict[str, Callable[[IO[bytes]], Found]] = {
    ".ply": _read_ply,
    ".off": _read_off,
    ".obj": _read_mesh("obj"),
    ".stl": _read_mesh("stl"),
    ".pcd": _read_pcd,
    ".las": _read_las,
    ".laz": _read_laz,
    ".bin": _read_kitti,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
SUFFIXES = tuple(_READERS)
