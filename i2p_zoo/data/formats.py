"""The formats of files of clouds and meshes, each read from an open file as its library gives it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError

Found = dict[str, NDArray[Any]]  # `points`; where the file has them `normals`, `rgb`, `intensity` and, of a mesh, `faces`


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
    return {"points": vertices, "faces": _triangles(lines[count : count + face_count])}


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
    found = {"points": loaded["vertices"]}
    if loaded.get("faces") is not None:
        found["faces"] = require("trimesh.geometry", "data").triangulate_quads(loaded["faces"])
    if loaded.get("vertex_normals") is not None:
        found["normals"] = loaded["vertex_normals"]
    if loaded.get("vertex_colors") is not None:
        found["rgb"] = require("trimesh.visual.color", "data").to_rgba(loaded["vertex_colors"])[:, :3]
    return found


def _read_mesh(kind: str) -> Callable[[IO[bytes]], Found]:
    def read(file: IO[bytes]) -> Found:
        mesh = require("trimesh", "data").load(file, file_type=kind, force="mesh", process=False, skip_materials=True)
        return {"points": np.asarray(mesh.vertices), "faces": np.asarray(mesh.faces)}

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
    rows = np.frombuffer(content, "<f4").reshape(-1, 4)
    return {"points": rows[:, :3], "intensity": rows[:, 3:]}


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


READERS: dict[str, Callable[[IO[bytes]], Found]] = {
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
