"""The formats of files of clouds and meshes, each read from an open file as its library gives it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import IO

import numpy as np

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays, check_dtypes, load_arrays, to_bytes, unit_normals
from i2p_zoo.data.files.gltf import read_gltf
from i2p_zoo.data.files.obj import read_obj
from i2p_zoo.data.files.off import read_off
from i2p_zoo.data.files.ply_clouds import read_ply_cloud
from i2p_zoo.data.files.stl import read_stl
from i2p_zoo.errors import InvalidInputError


def _read_pcd(file: IO[bytes]) -> Arrays:
    pcd = require("pypcd4", "data").PointCloud.from_fileobj(file)
    rows = np.atleast_1d(pcd.pc_data)
    if len(rows) < pcd.metadata.points:
        raise InvalidInputError(f"cut short: {len(rows)} of {pcd.metadata.points} points.")
    cloud = {"points": np.stack([rows[name] for name in "xyz"], 1)}
    names = rows.dtype.names or ()
    normals = ("normal_x", "normal_y", "normal_z")
    if set(normals) <= set(names):
        cloud["normals"] = np.stack([rows[name] for name in normals], 1)
    packed = next((name for name in ("rgb", "rgba") if name in names), None)
    if packed:  # four bytes, blue first, also where they are declared as a float
        cloud["rgb"] = np.array(rows[packed]).view(np.uint8).reshape(-1, 4)[:, 2::-1]
    return cloud


def _read_las(file: IO[bytes]) -> Arrays:
    las = require("laspy", "data").read(file, closefd=False)
    if len(las.points) < las.header.point_count:
        raise InvalidInputError(f"cut short: {len(las.points)} of {las.header.point_count} points.")
    cloud = {"points": np.asarray(las.xyz)}
    if "red" in las.point_format.dimension_names:
        cloud["rgb"] = to_bytes(np.stack([las.red, las.green, las.blue], 1).astype(np.uint16))
    return cloud


def _read_laz(file: IO[bytes]) -> Arrays:
    require("lazrs", "data")  # which laspy looks for by itself
    return _read_las(file)


def _read_kitti(file: IO[bytes]) -> Arrays:
    content = file.read()
    if len(content) % 16:
        raise InvalidInputError(f"expected 16 bytes a point (float32 x, y, z, intensity); found {len(content)} bytes.")
    rows = np.frombuffer(content, "<f4").reshape(-1, 4)
    return {"points": rows[:, :3], "intensity": rows[:, 3:]}


def _read_npy(file: IO[bytes]) -> Arrays:
    array = np.lib.format.read_array(file, allow_pickle=False)
    if array.ndim != 2 or array.shape[1] < 3:
        raise InvalidInputError(f"expected an array (N, 3) or of more columns; found {array.shape}.")
    if array.shape[0] in (3, 6) and array.shape[1] > array.shape[0]:
        raise InvalidInputError(f"its shape is {array.shape}, a row for each coordinate; transpose to (N, {array.shape[0]}).")
    return {"points": array[:, :3]}


def _read_npz(file: IO[bytes]) -> Arrays:
    arrays = load_arrays(file)
    if "points" in arrays:
        cloud: Arrays = {name: arrays[name] for name in ("points", "normals", "rgb") if name in arrays}
        check_dtypes("its", cloud)
        if "normals" in cloud:
            cloud["normals"] = unit_normals(cloud["normals"])
        return cloud
    candidates = {name: array for name, array in arrays.items() if array.ndim == 2 and array.shape[1] == 3}
    if len(candidates) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise InvalidInputError(f"expected an array `points`, or one array (N, 3); found {shapes}.")
    return {"points": next(iter(candidates.values()))}


# By ending. Each gives `points`; where the file has them `normals`, `rgb` or, of any type, `colors`, and `intensity`; of a mesh
# the vertices that its polygons name one after the other, `corners`, the number of each one's, `sizes`, and colours of the
# polygons, `face_colors`; and in words what of the file is not read, `unread`.
READERS: dict[str, Callable[[IO[bytes]], Arrays]] = {
    ".ply": read_ply_cloud,
    ".off": read_off,
    ".obj": partial(read_obj, scene=True),
    ".stl": read_stl,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".pcd": _read_pcd,
    ".las": _read_las,
    ".laz": _read_laz,
    ".bin": _read_kitti,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
