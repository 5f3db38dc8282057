"""Files of glTF 2.0, `.glb` and `.gltf`: the meshes or points of a scene, where its nodes place them."""

from __future__ import annotations

import base64
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.polygons import check_corners, divide_strips
from i2p_zoo.errors import InvalidInputError

_JSON, _BINARY = b"JSON", b"BIN\0"  # kinds of chunks
_DTYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_LINES = (1, 2, 3)  # modes of primitives
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
# These change the geometry. Another one may be passed over unless the file requires it.
_GEOMETRY = (
    "KHR_draco_mesh_compression EXT_meshopt_compression KHR_meshopt_compression EXT_mesh_gpu_instancing KHR_gaussian_splatting"
).split()
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_mesh_quantization")
_MOST = 2**27  # vertices, which a short file can have placed over and over
_TEXTURES = "its textures, so that it has no colours"


class _File(NamedTuple):
    tree: dict[str, Any]
    buffers: list[Any]


class _Part(NamedTuple):
    """A primitive where its node places it; without corners it is a cloud."""

    points: NDArray[Any]
    corners: NDArray[np.int64] | None
    normals: NDArray[np.float64] | None
    colors: NDArray[np.float64] | None  # from 0 to 1


def read_gltf(file: IO[bytes]) -> Arrays:
    """Reads an open file; what has triangles is a mesh, what has points alone a cloud.

    A vertex has its own colour times its material's, in the file's numbers, of which glTF says that they are linear.

    Raises:
        InvalidInputError: no glTF 2.0, a file that is cut short or longer than its header says or whose buffers are, one with
            lines, or one that needs an extension that is not known here.
    """
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tree, binary = _split_glb(content) if content[:4] == b"glTF" else (content[:], None)
    gltf = _File(json.loads(tree.decode("utf-8-sig")), [])
    if not isinstance(gltf.tree, dict) or str(gltf.tree.get("asset", {}).get("version", "1")).split(".")[0] != "2":
        raise InvalidInputError("it is not of glTF 2: its JSON has no `asset` of such a `version`.")
    _check_extensions(gltf.tree)
    folder = Path(os.fsdecode(file.name)).absolute().parent
    gltf.buffers.extend(_read_buffer(each, binary, folder) for each in gltf.tree.get("buffers", ()))
    parts: list[_Part] = []
    unread = set[str]()
    count = 0
    for mesh, matrix in _place_meshes(gltf.tree):
        for primitive in mesh["primitives"]:
            parts.append(_read_part(gltf, primitive, matrix, unread))
            count += len(parts[-1].points)
            if count > _MOST:
                raise InvalidInputError(f"its nodes place more than {_MOST:,} vertices.")
    return _join_parts(parts, unread)


def _split_glb(content: mmap.mmap) -> tuple[bytes, memoryview | None]:
    """Returns the JSON and the first binary chunk."""
    version, declared = (int.from_bytes(content[start : start + 4], "little") for start in (4, 8))
    if declared != len(content):
        fault = "cut short" if declared > len(content) else "longer than its header says"
        raise InvalidInputError(f"{fault}: it has {len(content)} bytes of {declared}.")
    chunks: dict[bytes, memoryview] = {}
    place = 12
    while place < declared:
        end = place + 8 + int.from_bytes(content[place : place + 4], "little")
        if end > declared:
            raise InvalidInputError(f"cut short: its chunk at byte {place} ends at byte {end} of {declared}.")
        chunks.setdefault(content[place + 4 : place + 8], memoryview(content)[place + 8 : end])
        place = end
    if version != 2 or _JSON not in chunks:
        raise InvalidInputError(f"expected a GLB file of version 2 with JSON; found version {version}, chunks {list(chunks)}.")
    return bytes(chunks[_JSON]), chunks.get(_BINARY)


def _check_extensions(tree: Mapping[str, Any]) -> None:
    required = [str(name) for name in tree.get("extensionsRequired", ())]
    used = {*required, *tree.get("extensionsUsed", ())}
    refused = {*used.intersection(_GEOMETRY), *(name for name in required if not name.startswith(_HARMLESS))}
    if refused:
        raise InvalidInputError(f"it needs {', '.join(sorted(refused))}, which is not read; write it without.")


def _read_buffer(buffer: Mapping[str, Any], binary: memoryview | None, folder: Path) -> Any:
    uri, length = buffer.get("uri"), int(buffer["byteLength"])
    if uri is None:
        content: Any = binary if binary is not None else b""
    elif uri.startswith("data:"):
        content = base64.b64decode(uri.partition(",")[2], validate=True)
    else:
        path = (folder / unquote(uri)).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise InvalidInputError(f"its buffer {uri!r} is not there; expected a file in {folder}.")
        with path.open("rb") as file:
            content = file.read(max(length, 0))
    if not 0 <= length <= len(content):
        raise InvalidInputError(f"cut short: its buffer {uri or 'in the file'!r} has {len(content)} bytes of {length}.")
    return content


def _read_accessor(gltf: _File, number: int) -> NDArray[Any]:
    """Returns (count, width) numbers, of normalised integers the fractions that they stand for."""
    accessor = gltf.tree["accessors"][number]
    if "sparse" in accessor or "bufferView" not in accessor:
        raise InvalidInputError(f"its accessor {number} is sparse or without values, which is not read; write plain ones.")
    view = gltf.tree["bufferViews"][accessor["bufferView"]]
    dtype, width, count = np.dtype(_DTYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]], int(accessor["count"])
    start, inner = int(view.get("byteOffset", 0)), int(accessor.get("byteOffset", 0))
    stride, length = int(view.get("byteStride", dtype.itemsize * width)), int(view["byteLength"])
    end = inner + (count - 1) * stride + dtype.itemsize * width
    content = gltf.buffers[view["buffer"]]
    if min(start, inner, count - 1, stride - 1) < 0 or end > length or start + length > len(content):
        raise InvalidInputError(f"cut short: its accessor {number} ends at byte {start + end} of {len(content)}, or is empty.")
    values: NDArray[Any] = np.ndarray((count, width), dtype, content, start + inner, (stride, dtype.itemsize))
    if not accessor.get("normalized"):
        return values
    fractions: NDArray[np.float64] = np.maximum(values / np.iinfo(dtype).max, -1)
    return fractions


def _place_meshes(tree: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], NDArray[np.float64]]]:
    """Yields each mesh of the scene and the matrix (4, 4) that places it."""
    nodes, scenes = tree.get("nodes", ()), tree.get("scenes", ())
    roots = scenes[tree.get("scene", 0)].get("nodes", ()) if scenes else range(len(nodes))
    children = set() if scenes else {child for node in nodes for child in node.get("children", ())}
    waiting = [(root, np.eye(4)) for root in reversed(roots) if root not in children]
    seen = set[int]()
    while waiting:
        number, outer = waiting.pop()
        if number in seen:
            raise InvalidInputError(f"its node {number} has more than one place in the scene.")
        seen.add(number)
        node = nodes[number]
        matrix = outer @ _matrix(node)
        if "mesh" in node:
            yield tree["meshes"][node["mesh"]], matrix
        waiting += [(child, matrix) for child in reversed(node.get("children", ()))]


def _matrix(node: Mapping[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        columns: NDArray[np.float64] = np.array(node["matrix"], np.float64).reshape(4, 4).T  # glTF lists columns
        return columns
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    # of a unit quaternion, glTF 2.0, section 3.5.3
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix: NDArray[np.float64] = np.eye(4)
    matrix[:3, :3] = np.array(rotation) * node.get("scale", (1, 1, 1))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _read_part(gltf: _File, primitive: Mapping[str, Any], matrix: NDArray[np.float64], unread: set[str]) -> _Part:
    attributes, mode = primitive["attributes"], primitive.get("mode", _TRIANGLES)
    points = _read_accessor(gltf, attributes["POSITION"])
    indices = _read_accessor(gltf, primitive["indices"])[:, 0].astype(np.int64) if "indices" in primitive else None
    if mode in _LINES or points.shape[1] != 3 or mode not in (_POINTS, _TRIANGLES, _STRIP, _FAN):
        raise InvalidInputError(f"a primitive is of lines or not in space (mode {mode}); expected points or triangles.")
    corners = None if mode == _POINTS else _triangles(np.arange(len(points)) if indices is None else indices, mode)
    if corners is not None:
        check_corners(len(points), corners)
    linear = matrix[:3, :3]
    if corners is not None and np.linalg.det(linear) < 0:
        corners = corners.reshape(-1, 3)[:, ::-1].reshape(-1)
    normals = _read_accessor(gltf, attributes["NORMAL"]) if "NORMAL" in attributes else None
    colors = _read_colors(gltf, primitive, len(points), unread)
    if not np.array_equal(matrix, np.eye(4)):
        points = points @ linear.T + matrix[:3, 3]
        normals = None if normals is None else normals @ np.linalg.pinv(linear)
    return _Part(points, corners, normals, colors)


def _triangles(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    if mode == _STRIP:
        return divide_strips(corners, np.zeros(len(corners), np.int64))
    if mode == _FAN:
        return np.stack([np.broadcast_to(corners[:1], len(corners) - 2), corners[1:-1], corners[2:]], 1).reshape(-1)
    if len(corners) % 3:
        raise InvalidInputError(f"a primitive of triangles has {len(corners)} corners.")
    return corners


def _read_colors(gltf: _File, primitive: Mapping[str, Any], count: int, unread: set[str]) -> NDArray[np.float64] | None:
    """Returns (count, 3) from 0 to 1, or None where neither the vertices nor the material have a colour; notes a texture."""
    material = gltf.tree["materials"][primitive["material"]] if "material" in primitive else {}
    surface = material.get("pbrMetallicRoughness", {})
    if "baseColorTexture" in surface:
        unread.add(_TEXTURES)
    if "KHR_materials_pbrSpecularGlossiness" in material.get("extensions", {}):
        unread.add("its materials (KHR_materials_pbrSpecularGlossiness)")
    factor, number = surface.get("baseColorFactor"), primitive["attributes"].get("COLOR_0")
    if factor is None and number is None:
        return None
    colors = np.ones((count, 3)) if number is None else _read_accessor(gltf, number)[:, :3]
    if colors.dtype.kind == "u":  # some programs forget to say that they are normalised
        colors = colors / np.iinfo(colors.dtype).max
    if colors.shape != (count, 3):
        raise InvalidInputError(f"its colours are {colors.shape} for {count} vertices.")
    products: NDArray[np.float64] = np.multiply(colors, (factor or (1, 1, 1))[:3])
    return products


def _join_parts(parts: Sequence[_Part], unread: set[str]) -> Arrays:
    if not parts:
        raise InvalidInputError("its scene has no triangles and no points.")
    cloud: Arrays = {"points": np.concatenate([part.points for part in parts])}
    starts = np.cumsum([0, *(len(part.points) for part in parts)])
    corners = [part.corners + start for part, start in zip(parts, starts, strict=False) if part.corners is not None]
    if corners:
        cloud["corners"] = np.concatenate(corners)
        cloud["sizes"] = np.broadcast_to(np.int64(3), len(cloud["corners"]) // 3)
        if len(corners) < len(parts):
            unread.add("its points beside the triangles, unless it is a scene")
    normals = [part.normals for part in parts if part.normals is not None]
    if len(normals) == len(parts):
        cloud["normals"] = np.concatenate(normals)
    if any(part.colors is not None for part in parts) and _TEXTURES not in unread:
        white = [np.ones(part.points.shape) if part.colors is None else part.colors for part in parts]
        cloud["colors"] = np.concatenate(white)
    return cloud | ({"unread": np.array(sorted(unread))} if unread else {})
