"""Files of every format, written by hand or by the formats' own libraries."""

from __future__ import annotations

import base64
import json
import struct

import laspy
import numpy as np
import pye57
import pypcd4
import trimesh

RANDOM = np.random.default_rng(0)


POINTS = RANDOM.normal(size=(20, 3)).astype(np.float32)


NORMALS = (POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)).astype(np.float32)


RGB = RANDOM.integers(0, 256, (20, 3), dtype=np.uint8)


# Two rectangles: one of 1 x 1 in the plane z = 0, which looks up, and one of 3 x 1 in the plane x = 5, which looks along x.
VERTICES = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (5, 0, 0), (5, 3, 0), (5, 3, 1), (5, 0, 1)]


TRIANGLES = [(0, 1, 2), (0, 2, 3), (4, 5, 6), (4, 6, 7)]


QUADS = [(0, 1, 2, 3), (4, 5, 6, 7)]


def off(faces=TRIANGLES, vertices=VERTICES, header="OFF\n{} {} 0\n"):
    rows = [" ".join(map(str, vertex)) for vertex in vertices]
    rows += [" ".join(map(str, (len(face), *face))) for face in faces]
    return (header.format(len(vertices), len(faces)) + "\n".join(rows) + "\n").encode()


def obj(faces=TRIANGLES):
    rows = ["v {} {} {}".format(*vertex) for vertex in VERTICES]
    rows += ["f " + " ".join(str(number + (number >= 0)) for number in face) for face in faces]
    return "\n".join(rows).encode()


def mesh(**options):
    return trimesh.Trimesh(VERTICES, TRIANGLES, process=False).export(**options)


def gltf():
    """A .gltf file of the mesh with its buffer in itself."""
    indices, positions = np.array(TRIANGLES, "<u2").tobytes(), np.array(VERTICES, "<f4").tobytes()
    content = base64.b64encode(indices + positions).decode()
    views = [{"buffer": 0, "byteLength": 24}, {"buffer": 0, "byteOffset": 24, "byteLength": 96}]
    accessors = [(5123, 12, "SCALAR"), (5126, 8, "VEC3")]
    tree = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": number, "componentType": code, "count": count, "type": kind}
            for number, (code, count, kind) in enumerate(accessors)
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": 120, "uri": f"data:application/octet-stream;base64,{content}"}],
    }
    return json.dumps(tree).encode()


def ply(columns, faces=(), encoding="ascii", kinds=None):
    """A PLY file of named columns, as text or in either byte order, and of triangles."""
    names = list(columns)
    kinds = {name: "uchar" if name in ("red", "green", "blue") else "float" for name in names} | (kinds or {})
    count = len(columns["x"])
    lines = ["ply", f"format {encoding} 1.0", "comment by hand", f"element vertex {count}"]
    lines += [f"property {kinds[name]} {name}" for name in names]
    if len(faces):
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    header = "\n".join([*lines, "end_header", ""]).encode()
    if encoding == "ascii":
        rows = [" ".join(repr(float(columns[name][row])) for name in names) for row in range(count)]
        rows = [row.replace(".0 ", " ") for row in rows] + [" ".join(map(str, (len(face), *face))) for face in faces]
        return header + "\n".join([*rows, ""]).encode()
    order = ">" if "big" in encoding else "<"
    rows = np.zeros(count, [(name, order + {"float": "f4", "double": "f8", "uchar": "u1"}[kinds[name]]) for name in names])
    for name in names:
        rows[name] = columns[name]
    polygons = [struct.pack(f"{order}B{len(face)}i", len(face), *face) for face in faces]
    return header + rows.tobytes() + b"".join(polygons)


def columns(points=POINTS, normals=None, rgb=None):
    found = dict(zip("xyz", np.transpose(points), strict=True))
    if normals is not None:
        found |= dict(zip(("nx", "ny", "nz"), normals.T, strict=True))
    if rgb is not None:
        found |= dict(zip(("red", "green", "blue"), rgb.T, strict=True))
    return found


def las(path, points, rgb=None, point_format=2, version="1.2"):
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = [0.001] * 3, np.floor(points.min(0))
    file = laspy.LasData(header)
    file.x, file.y, file.z = points.T
    if rgb is not None:
        file.red, file.green, file.blue = rgb.T
    file.write(str(path))
    return path


def e57(path, points, rgb=None, **pose):
    file = pye57.E57(str(path), mode="w")
    columns = {f"cartesian{axis}": column for axis, column in zip("XYZ", points.T.astype(np.float64), strict=True)}
    if rgb is not None:
        columns |= {f"color{name}": column for name, column in zip(("Red", "Green", "Blue"), rgb.T, strict=True)}
    file.write_scan_raw(columns, **pose)
    file.close()
    return path


def pcd(path, rows, fields, types, encoding):
    pypcd4.PointCloud.from_points(rows, fields, types).save(path, encoding=pypcd4.Encoding(encoding))
    return path


def write(path, content):
    path.write_bytes(content)
    return path


MESHES = {
    "triangles.off": off(),
    "quads.off": off(QUADS),
    "mixed.off": off([QUADS[0], *TRIANGLES[2:]]),
    "official.off": off(header="OFF{} {} 0\n"),  # as a third of ModelNet40's files have it
    "commented.off": b"# made by hand\n" + off(header="OFF # a mesh\n\n{} {} 0\n") + b"\n# the end\n",
    "UPPER.OFF": off(),
    "triangles.obj": obj(),
    "quads.obj": obj(QUADS),
    "backwards.obj": obj([[number - 8 for number in face] for face in TRIANGLES]).replace(b"f ", b"  f "),
    "textured.obj": obj()
    .replace(b"v 0 0 0", b"vt 0 0\nvn 0 0 1\nv\t0 0 0")
    .replace(b"f 1 2 3", b"f 1/1/1 2//1 \\\r\n 3/1 # up"),
    "parts.obj": obj().replace(b"f 5", b"o second\ng red\nf 5", 1),
    "binary.stl": mesh(file_type="stl"),
    "text.stl": mesh(file_type="stl_ascii").encode(),
    "text.ply": ply(columns(VERTICES), TRIANGLES),
    "little.ply": ply(columns(VERTICES), TRIANGLES, "binary_little_endian"),
    "big.ply": ply(columns(VERTICES), TRIANGLES, "binary_big_endian"),
    "quads.ply": ply(columns(VERTICES), QUADS),
    "trimesh.ply": mesh(file_type="ply"),
    "trimesh.glb": mesh(file_type="glb"),
    "embedded.gltf": gltf(),
}


def save(tmp_path, name):
    """A file of POINTS, with the normals and colours that its name tells."""
    path = tmp_path / name
    stem, kind = path.stem, path.suffix
    normals, rgb = (NORMALS if "normals" in stem else None), (RGB if "rgb" in stem else None)
    if kind == ".ply":
        encoding = next((encoding for encoding in ("binary_little_endian", "binary_big_endian") if encoding in stem), "ascii")
        path.write_bytes(ply(columns(POINTS, normals, rgb), encoding=encoding))
    elif kind == ".pcd":
        parts, fields = [POINTS], ["x", "y", "z"]
        if normals is not None:
            parts, fields = [*parts, NORMALS], [*fields, "normal_x", "normal_y", "normal_z"]
        types = [np.float32] * len(fields)
        if rgb is not None:
            packed = RGB.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
            as_float = "float" in stem
            fields, types = [*fields, "rgb"], [*types, np.float32 if as_float else np.uint32]
            parts.append((packed.view(np.float32) if as_float else packed)[:, None])
        pcd(path, [column for part in parts for column in part.T], fields, types, stem.split("-")[0])
    elif kind in (".las", ".laz"):
        modern = {"point_format": 7, "version": "1.4"} if "modern" in stem else {"point_format": 2 if "rgb" in stem else 0}
        las(path, POINTS.astype(np.float64), None if rgb is None else RGB.astype(np.uint16) * 257, **modern)
    elif kind == ".bin":
        path.write_bytes(np.column_stack([POINTS, np.ones(20, np.float32)]).tobytes())
    elif kind == ".stl":
        path.write_bytes(MESHES["binary.stl"])
    elif kind == ".e57":
        e57(path, POINTS, rgb)
    elif kind in (".txt", ".xyz", ".xyzn", ".xyzrgb", ".pts", ".csv", ".asc"):
        rows = [
            " ".join(map(str, map(float, row))) for row in np.column_stack([POINTS, *([] if normals is None else [normals])])
        ]
        rows = [" ".join((row, *map(str, color))) for row, color in zip(rows, RGB, strict=True)] if rgb is not None else rows
        header = {".csv": "x,y,z" + (",r,g,b" if rgb is not None else ",nx,ny,nz") + "\n", ".pts": "20\n"}.get(kind, "")
        text = "\n".join(rows)
        path.write_text(header + (text.replace(" ", ",") if kind == ".csv" else text))
    elif kind == ".npy":
        np.save(path, np.column_stack([POINTS, NORMALS])[:, : 6 if "six" in stem else 3])
    else:
        arrays = {"points": POINTS, "normals": normals, "rgb": rgb, "scale": np.ones(3)}
        arrays = {"whatever": POINTS, "scale": np.ones((3, 2))} if "nameless" in stem else arrays
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
