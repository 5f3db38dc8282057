"""Files of every format, written by hand or by the formats' own libraries: what is read, and that each fault is named."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import sys
import warnings

import laspy
import numpy as np
import pye57
import pypcd4
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files import formats
from i2p_zoo.data.files.cloud_files import SUFFIXES, read_cloud
from i2p_zoo.data.files.ply import write_colored_ply
from i2p_zoo.errors import MissingExtraError, NotFoundError

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


@pytest.mark.parametrize("name", MESHES)
def test_mesh_is_sampled_on_its_surface_and_evenly_by_area(tmp_path, name):
    count = 4000
    found = read_cloud(write(tmp_path / name, MESHES[name]), points=count, seed=1)
    points, normals = found["points"], found["normals"]
    assert set(found) == {"points", "normals"}
    assert points.shape == normals.shape == (count, 3)
    assert points.dtype == normals.dtype == np.float32
    small = points[:, 2] == 0
    small &= points[:, 0] <= 1
    for part, flat, value, sides, extents in ((small, 2, 0, (0, 1), (1, 1)), (~small, 0, 5, (1, 2), (3, 1))):
        assert np.allclose(points[part, flat], value, atol=1e-6), "points lie in the plane of their rectangle"
        assert np.allclose(normals[part], np.eye(3)[flat], atol=1e-6)
        for side, extent in zip(sides, extents, strict=True):
            counts, _ = np.histogram(points[part, side], 4, (0, extent))
            assert counts.sum() == part.sum(), "no point lies beyond the rectangle"
            spread = np.sqrt(part.sum() * 3 / 16)
            assert np.abs(counts - part.sum() / 4).max() < 4.5 * spread
    assert abs(small.sum() - count / 4) < 4.5 * np.sqrt(count * 3 / 16), "a quarter of the area, a quarter of the points"


def test_sampling_is_reproducible_by_seed(tmp_path):
    path = write(tmp_path / "a.off", off())
    first, again, other = (read_cloud(path, 50, seed)["points"] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_same_mesh_in_another_format_is_sampled_alike(tmp_path):
    expected = read_cloud(write(tmp_path / "a.off", off()), 50)["points"]
    for name in ("triangles.obj", "little.ply", "text.ply", "official.off"):
        assert np.array_equal(read_cloud(write(tmp_path / name, MESHES[name]), 50)["points"], expected)


def test_faces_without_area_get_no_point(tmp_path):
    found = read_cloud(write(tmp_path / "a.off", off([(4, 4, 5), (0, 1, 2), (6, 6, 6)])), 500)
    assert found["points"][:, 0].max() <= 1
    assert np.allclose(found["normals"], [0, 0, 1])


def test_tiny_mesh_has_unit_normals(tmp_path):
    tiny = [tuple(1e-9 * number for number in vertex) for vertex in VERTICES]
    normals = read_cloud(write(tmp_path / "a.off", off(vertices=tiny)), 20)["normals"]
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)


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


CLOUDS = """
plain.ply normals.ply rgb.ply normals-rgb.ply binary_little_endian-normals-rgb.ply binary_big_endian-rgb.ply
ascii.pcd ascii-normals-rgb.pcd binary-normals-rgb.pcd binary_compressed-rgb.pcd binary-float-rgb.pcd
plain.las rgb.las modern-rgb.las plain.laz rgb.laz modern-rgb.laz plain.bin plain.npy six-normals.npy
plain.e57 rgb.e57 plain.txt six-normals.txt rgb.xyz normals.xyzn rgb.xyzrgb plain.pts rgb.csv normals.csv rgb.asc
plain.npz normals-rgb.npz nameless.npz UPPER-rgb.PLY
""".split()


@pytest.mark.parametrize("name", CLOUDS)
def test_cloud_is_read_whole_as_it_was_written(tmp_path, name):
    lower = save(tmp_path, name.lower())
    path = lower.rename(tmp_path / name)
    found = read_cloud(path, points=5)
    stem = path.stem
    assert set(found) == {"points"} | {extra for extra in ("normals", "rgb") if extra in stem}
    assert found["points"].dtype == (np.float64 if ".la" in name else np.float32), (
        "float32 where that holds the numbers exactly"
    )
    assert np.allclose(found["points"], POINTS, atol=6e-4 if ".la" in name else 1e-6), "LAS is rounded to a millimetre"
    if "normals" in stem:
        assert found["normals"].dtype == np.float32
        assert np.allclose(found["normals"], NORMALS, atol=1e-6)
    if "rgb" in stem:
        assert found["rgb"].dtype == np.uint8
        assert np.array_equal(found["rgb"], RGB)
    for array in found.values():
        array += 1  # writeable, and nothing else's memory
    assert not np.array_equal(read_cloud(path)["points"], found["points"])


def test_every_ending_is_tested():
    assert {"." + name.rpartition(".")[2].lower() for name in [*CLOUDS, *MESHES]} == set(SUFFIXES)


def test_one_point_is_a_cloud(tmp_path):
    rows = np.array([[1.0], [2.0], [3.0]], np.float32)
    for encoding in ("ascii", "binary"):
        path = pcd(tmp_path / f"{encoding}.pcd", list(rows), list("xyz"), [np.float32] * 3, encoding)
        assert read_cloud(path)["points"].tolist() == [[1, 2, 3]]
    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0, 3e7]]))
    assert read_cloud(tmp_path / "a.npy")["points"].tolist() == [[1, 2, 3e7]]


def test_eight_bit_colours_in_a_las_file_are_not_scaled_down(tmp_path):
    found = read_cloud(las(tmp_path / "a.las", POINTS.astype(np.float64), RGB.astype(np.uint16)))
    assert np.array_equal(found["rgb"], RGB)


@pytest.mark.parametrize("ending", [".las", ".laz"])
def test_metres_in_utm_keep_their_millimetres(tmp_path, ending):
    offset = np.array([500_000.0, 5_400_000.0, 300.0])
    near = np.round(RANDOM.uniform(0, 50, (100, 3)), 3)
    found = read_cloud(las(tmp_path / f"a{ending}", near + offset))["points"]
    assert found.dtype == np.float64
    assert np.abs(found - (near + offset)).max() < 1e-8, "to the digit, and where they are"


def test_coordinates_are_the_files_own_in_float32_where_that_holds_them(tmp_path):
    for name, points, dtype in (
        ("doubles", POINTS.astype(np.float64) * np.pi + 5e6, np.float64),
        ("doubles of floats", POINTS.astype(np.float64), np.float32),
        ("floats far off", (POINTS + 1e7).astype(np.float32), np.float32),
        ("halves", POINTS.astype(np.float16), np.float32),
        ("large integers", np.full((4, 3), 2**24 + 1), np.float64),
        ("small integers", np.full((4, 3), 2**24), np.float32),
    ):
        np.save(tmp_path / f"{name}.npy", points)
        found = read_cloud(tmp_path / f"{name}.npy")["points"]
        assert found.dtype == dtype, name
        assert np.array_equal(found, points), name


def test_whole_numbers_are_coordinates(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12, dtype=np.int16).reshape(4, 3))
    found = read_cloud(tmp_path / "a.npy")["points"]
    assert found.dtype == np.float32
    assert np.array_equal(found, np.arange(12).reshape(4, 3))


def npy(array):
    def content(path):
        np.save(path, array)

    return content


def npz(**arrays):
    def content(path):
        np.savez(path, **arrays)

    return content


def cut(name, keep):
    """A good file of which only a part is left."""

    def content(path):
        if name in MESHES:
            path.write_bytes(MESHES[name])
        else:
            save(path.parent, name).rename(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: keep if keep > 0 else len(whole) + keep])

    return content


def las_of_nothing(path):
    las(path, POINTS[:1].astype(np.float64))
    with laspy.open(path, "w", header=laspy.LasHeader(point_format=0, version="1.2")):
        pass


NAN = np.where(np.arange(60).reshape(20, 3) == 31, np.nan, POINTS)
PCD_HEADER = "VERSION 0.7\nFIELDS {}\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {n}\nHEIGHT 1\nPOINTS {n}\nDATA ascii\n"
PLY_HEADER = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
FLAT = off([(0, 0, 1), (1, 1, 1)])
MALFORMED = {
    "infinity of old runtimes in obj": ("a.obj", b"v 0 0 1.#INF\nv 1 0 0\nv 1 1 0\nf 1 2 3\n", "1.#INF"),
    "infinity of old runtimes in off": ("a.off", b"OFF\n3 1 0\n0 0 1.#INF\n1 0 0\n1 1 0\n3 0 1 2\n", "1.#INF"),
    "an unknown ending": ("bad.vtk", b"1 2 3\n", r"'\.vtk'.*\.ply"),
    "no ending": ("bad", b"1 2 3\n", r"ending"),
    "no vertices.off": ("bad.off", b"OFF\n0 0 0\n", "0 vertices"),
    "no surface.off": ("bad.off", FLAT, "area of 0"),
    "infinite surface.off": ("bad.off", off(vertices=[(1e200 * x, 1e200 * y, z) for x, y, z in VERTICES]), "area of inf"),
    "no header.off": ("bad.off", off(header="{} {} 0\n"), "begins with `OFF`"),
    "no counts.off": ("bad.off", b"OFF\nhello\n", "counts"),
    "a face missing.off": ("bad.off", off()[:-8], "cut short"),
    "half a face.off": ("bad.off", off()[:-3], "bad"),
    "half a polygon.off": ("bad.off", off(QUADS)[:-3], "cut short"),
    "half the vertices.off": ("bad.off", off()[:30], "cut short"),
    "words.off": ("bad.off", off().replace(b"1 1 0\n", b"1 one 0\n"), "one"),
    "a face more.off": ("bad.off", off() + b"3 0 1 2\n", "13 lines; by its header it has 8 vertices and 4 faces"),
    "a vertex beyond.off": ("bad.off", off([(0, 1, 8)]), "0 to 8 of 8"),
    "a negative vertex.off": ("bad.off", off([(0, 1, -1)]), "-1 to 1 of 8"),
    "nan.off": ("bad.off", off(vertices=[(float("nan"), 0, 0), *VERTICES[1:]]), "NaN"),
    "no surface.obj": ("bad.obj", obj([(0, 1, 1)]), "area of 0"),
    "a vertex beyond.obj": ("bad.obj", obj([(0, 1, 8)]), "0 to 8 of 8"),
    "no vertices.obj": ("bad.obj", b"f 1 2 3\n", "no vertices"),
    "a vertex before the first.obj": ("bad.obj", b"f -1 -2 -3\n" + obj(), "-3 to 7 of 8"),
    "nan.obj": ("bad.obj", obj().replace(b"v 0 0 0", b"v nan 0 0"), "NaN"),
    "cut.stl": ("bad.stl", MESHES["binary.stl"][:-20], "cut short: 3 of 4 triangles"),
    "cut text.stl": ("bad.stl", MESHES["text.stl"][:200], "cut short: its solid 1 has no end"),
    "header.stl": ("bad.stl", bytes(84), "no triangles"),
    "words.stl": ("bad.stl", MESHES["text.stl"].replace(b"vertex 5.0", b"vertex five"), "bad"),
    "nan.stl": ("bad.stl", MESHES["text.stl"].replace(b"vertex 5.0", b"vertex nan"), "NaN"),
    "a face missing.ply": ("bad.ply", MESHES["text.ply"][:-8], "3 of 4 rows of the element 'face'"),
    "vertices missing.ply": ("bad.ply", PLY_HEADER.encode() + b"1 2 3\n", "1 of 2 rows of the element 'vertex'"),
    "no rows.ply": ("bad.ply", PLY_HEADER.encode(), "bad"),
    "half a row.ply": ("bad.ply", PLY_HEADER.encode() + b"1 2 3\n1 2\n", "bad"),
    "words.ply": ("bad.ply", PLY_HEADER.encode() + b"1 2 3\n1 two 3\n", "bad"),
    "words among faces.ply": ("bad.ply", MESHES["text.ply"].replace(b"3 0 1 2", b"3 0 one 2"), "bad"),
    "no points.ply": ("bad.ply", PLY_HEADER.replace("2", "0").encode(), "no vertices"),
    "no header's end.ply": ("bad.ply", PLY_HEADER[:-12].encode(), "bad"),
    "no z.ply": ("bad.ply", PLY_HEADER.replace("property float z\n", "").encode() + b"1 2\n1 2\n", "z"),
    "nan.ply": ("bad.ply", ply(columns(np.full((4, 3), np.nan))), "none of its 4 points.*NaN"),
    "cut.ply": ("bad.ply", cut("little.ply", -5), "cut short: 3 of 4 rows of the element 'face'"),
    "cut cloud.ply": ("bad.ply", cut("binary_little_endian-rgb.ply", -15), "cut short: 19 of 20 rows"),
    "a vertex beyond.ply": ("bad.ply", ply(columns(VERTICES), [(0, 1, 8)]), "0 to 8 of 8"),
    "a point missing.pcd": ("bad.pcd", (PCD_HEADER.format("x y z", n=2) + "1 2 3\n").encode(), "1 of 2 points"),
    "no points.pcd": ("bad.pcd", PCD_HEADER.format("x y z", n=0).encode(), "at least one point"),
    "no z.pcd": ("bad.pcd", (PCD_HEADER.format("x y w", n=1) + "1 2 3\n").encode(), "z"),
    "words.pcd": ("bad.pcd", (PCD_HEADER.format("x y z", n=1) + "1 two 3\n").encode(), "two"),
    "nan.pcd": ("bad.pcd", (PCD_HEADER.format("x y z", n=1) + "1 nan 3\n").encode(), "NaN"),
    "points cut off.pcd": ("bad.pcd", cut("binary.pcd", -24), "18 of 20 points"),
    "half a point.pcd": ("bad.pcd", cut("binary.pcd", -5), "bad"),
    "cut.pcd": ("bad.pcd", cut("binary_compressed.pcd", -5), "bad"),
    "half a header.pcd": ("bad.pcd", cut("binary.pcd", 60), "bad"),
    "points cut off.las": ("bad.las", cut("plain.las", -40), "18 of 20 points"),
    "half a point.las": ("bad.las", cut("plain.las", -5), "bad"),
    "half a header.las": ("bad.las", cut("plain.las", 100), "bad"),
    "no points.las": ("bad.las", las_of_nothing, "at least one point"),
    "cut.laz": ("bad.laz", cut("plain.laz", -100), "bad"),
    "half a header.laz": ("bad.laz", cut("plain.laz", 100), "bad"),
    "half a point.bin": ("bad.bin", bytes(40), "16 bytes a point.*40 bytes"),
    "nan.bin": ("bad.bin", np.full(64, np.nan, np.float32).tobytes(), "nan, which no coordinate"),
    "flat.npy": ("bad.npy", npy(np.zeros(12)), r"\(12,\)"),
    "two columns.npy": ("bad.npy", npy(np.zeros((4, 2))), r"\(4, 2\)"),
    "three rows.npy": ("bad.npy", npy(np.zeros((3, 4))), r"\(3, 4\).*transpose to \(N, 3\)"),
    "six rows.npy": ("bad.npy", npy(np.zeros((6, 9))), r"\(6, 9\).*transpose to \(N, 6\)"),
    "a batch.npy": ("bad.npy", npy(np.zeros((2, 4, 3))), r"\(2, 4, 3\)"),
    "no points.npy": ("bad.npy", npy(np.zeros((0, 3))), "at least one point"),
    "words.npy": ("bad.npy", npy(np.full((4, 3), "a")), "no numbers"),
    "truths.npy": ("bad.npy", npy(np.ones((4, 3), bool)), "no numbers"),
    "complex.npy": ("bad.npy", npy(np.ones((4, 3), complex)), "no numbers"),
    "infinite.npy": ("bad.npy", npy(np.full((4, 3), np.inf)), "infinite"),
    "beyond float32.npy": ("bad.npy", npy(np.array([[0, 0, 0], [1e39, 0, 0]])), "range of float32"),
    "cut.npy": ("bad.npy", cut("plain.npy", -5), "bad"),
    "half a header.npy": ("bad.npy", cut("plain.npy", 50), "bad"),
    "no such array.npz": ("bad.npz", npz(a=np.zeros(3)), r"`points`.*'a': \(3,\)"),
    "two arrays.npz": ("bad.npz", npz(a=POINTS, b=POINTS), "'a'.*'b'"),
    "two columns.npz": ("bad.npz", npz(points=np.zeros((5, 2))), r"\(5, 2\)"),
    "two colours.npz": ("bad.npz", npz(points=POINTS, rgb=RGB, color=RGB), "rgb and color; expected one array of colors"),
    "several clouds.npz": ("bad.npz", npz(points=np.zeros((5, 4, 3))), r"5 clouds, \(5, 4, 3\).*npz:FILE"),
    "no points.npz": ("bad.npz", npz(points=np.zeros((0, 3))), "at least one point"),
    "short normals.npz": ("bad.npz", npz(points=POINTS, normals=NORMALS[1:]), r"normals.*\(19, 3\) for 20 points"),
    "colours of unknown range.npz": ("bad.npz", npz(points=POINTS, rgb=RGB * 3.5), "colours are float64 from"),
    "colours of words.npz": ("bad.npz", npz(points=POINTS, rgb=np.full((20, 3), "red")), "rgb are <U3, no numbers"),
    "wide normals.npz": (
        "bad.npz",
        npz(points=POINTS, normals=np.ones((20, 3), np.int16)),
        "normals must be int8 or floats.*int16",
    ),
    "text.npz": ("bad.npz", b"x,y,z\n1,2,3\n", r"no \.npz file.*begins with b'x,'"),
    "cut.npz": ("bad.npz", cut("plain.npz", -30), "bad"),
}


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_faulty_file_is_refused_by_name_and_fault(tmp_path, name, content, message):
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"(?s){message}") as caught:
        read_cloud(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_no_bytes_is_said_to_be_empty(tmp_path, suffix):
    path = write(tmp_path / f"none{suffix}", b"")
    with pytest.raises(InvalidInputError) as caught:
        read_cloud(path)
    assert str(caught.value) == f"{path} is empty (0 bytes)."


@pytest.mark.parametrize("shape", [(3, 3), (6, 6), (6, 4), (4, 3), (5, 5)])
def test_a_few_points_are_not_taken_for_rows_of_coordinates(tmp_path, shape):
    rows = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "a.npy", rows)
    assert np.array_equal(read_cloud(tmp_path / "a.npy")["points"], rows[:, :3])


def test_normals_of_one_byte_are_unit_vectors(tmp_path):
    np.savez(tmp_path / "a.npz", points=POINTS, normals=np.round(127 * NORMALS).astype(np.int8))
    found = read_cloud(tmp_path / "a.npz")["normals"]
    assert np.allclose(found, NORMALS, atol=1 / 127)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_a_warning_of_numpy_that_it_stopped_at_a_word_is_an_error(tmp_path, monkeypatch):
    def read(_):
        warnings.warn("string or file could not be read to its end due to unmatched data", DeprecationWarning, stacklevel=1)
        return {"points": POINTS}

    monkeypatch.setitem(formats.READERS, ".off", read)
    path = write(tmp_path / "a.off", off())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidInputError, match=r"a\.off cannot be read: .*unmatched data"):
            read_cloud(path)


GARBAGE = {"text": b"hello, world\nthis is no cloud\n", "noise": np.random.default_rng(1).bytes(1001)}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_garbage_of_any_ending_is_refused_by_name(tmp_path, suffix, content):
    path = write(tmp_path / f"bad{suffix}", content)
    with pytest.raises(InvalidInputError) as caught:
        read_cloud(path)
    assert str(path) in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_pickles_are_never_run(tmp_path):
    bomb = np.array([[Bomb(tmp_path / "exploded")] * 3], dtype=object)
    np.save(tmp_path / "a.npy", bomb)
    np.savez(tmp_path / "a.npz", points=bomb)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    for name in ("a.npy", "a.npz", "b.npy"):
        with pytest.raises(InvalidInputError, match=name):
            read_cloud(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.ply"):
        read_cloud(tmp_path / "none.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InvalidInputError, match=r"folder\.ply is a folder"):
        read_cloud(tmp_path / "folder.ply")


def test_no_point_of_a_mesh_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="at least 1; got 0"):
        read_cloud(write(tmp_path / "a.off", off()), points=0)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_file_passes(tmp_path, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setitem(formats.READERS, ".off", fail)
    with pytest.raises(error):
        read_cloud(write(tmp_path / "a.off", off()))


@pytest.mark.parametrize(
    ("name", "module"),
    [("plain.las", "laspy"), ("plain.laz", "lazrs")],
)
def test_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, module):
    path = save(tmp_path, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"`{module}`.*i2p-zoo\[data\]"):
        read_cloud(path)


def test_e57_has_an_extra_of_its_own(tmp_path, monkeypatch):
    path = save(tmp_path, "plain.e57")
    monkeypatch.setitem(sys.modules, "pye57", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[e57\]"):
        read_cloud(path)


def test_coloured_ply_is_read_back_by_us_and_by_trimesh(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text("an older file")
    write_colored_ply(str(path), POINTS.astype(np.float64), RGB)
    found = read_cloud(path)
    assert np.array_equal(found["points"], POINTS)
    assert np.array_equal(found["rgb"], RGB)
    other = trimesh.load(str(path))
    assert np.array_equal(other.vertices, POINTS)
    assert np.array_equal(other.colors[:, :3], RGB)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("bad", [POINTS[:-1], POINTS[:, :2], POINTS.ravel()], ids=["fewer", "two columns", "flat"])
def test_points_that_do_not_fit_the_colours_are_not_written(tmp_path, bad):
    with pytest.raises(InvalidInputError, match=r"\(N, 3\) uint8"):
        write_colored_ply(tmp_path / "a.ply", bad, RGB)
    with pytest.raises(InvalidInputError, match="float64"):
        write_colored_ply(tmp_path / "a.ply", POINTS, RGB / 255)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ply", b"an older file")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("i2p_zoo.staging.os.replace", fail)
    with pytest.raises(OSError, match="full"):
        write_colored_ply(path, POINTS, RGB)
    assert path.read_bytes() == b"an older file"
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]


def test_a_missing_folder_to_write_in_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"no folder .*none"):
        write_colored_ply(tmp_path / "none" / "a.ply", POINTS, RGB)


def test_scene_is_a_meshs_vertices_with_their_colours_and_a_scans_intensity(tmp_path):
    rgb = np.arange(3 * len(VERTICES), dtype=np.uint8).reshape(-1, 3)
    (tmp_path / "room.ply").write_bytes(
        ply(columns(np.array(VERTICES, np.float64), rgb=rgb), TRIANGLES, "binary_little_endian")
    )
    room = read_cloud(tmp_path / "room.ply", scene=True)
    assert np.array_equal(room["points"], np.array(VERTICES, np.float32))
    assert np.array_equal(room["rgb"], rgb)
    assert read_cloud(tmp_path / "room.ply", points=7)["points"].shape == (7, 3)
    scan = np.random.default_rng(0).random((5, 4), np.float32)
    (tmp_path / "000000.bin").write_bytes(scan.tobytes())
    whole = read_cloud(tmp_path / "000000.bin", scene=True, columns=4)
    assert np.array_equal(whole["points"], scan)
    assert np.array_equal(whole["intensity"], scan[:, 3:])
    assert np.array_equal(read_cloud(tmp_path / "000000.bin", columns=4)["points"], scan[:, :3])


SEAM = (
    b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    + b"".join(b"vt 0 .%d\n" % n for n in range(1, 7))
    + b"f 1/1 2/2 3/3\nf 1/4 3/5 4/6\n"
)
SCENES = {
    "an unused vertex": (b"v 9 9 9\nv 0 0 0\nv 1 0 0\nv 1 1 0\nf 2 3 4\n", [(9, 9, 9), (0, 0, 0), (1, 0, 0), (1, 1, 0)]),
    "a seam": (SEAM, VERTICES[:4]),
    "vertices alone": (obj([]), VERTICES),
    "a backslash in a comment": (b"# from C:\\models\\\nv 0 0 0\nv 1 0 0\n", [(0, 0, 0), (1, 0, 0)]),
    "a backslash in a name": (b"mtllib C:\\models\\\r\nv 0 0 0\r\nv 1 0 0\r\n", [(0, 0, 0), (1, 0, 0)]),
    "a line in two": (b"v 0 0 \\\n7\nv 1 0 0\n", [(0, 0, 7), (1, 0, 0)]),
    "a byte order mark": (b"\xef\xbb\xbfv 0 0 0\nv 1 0 0\n", [(0, 0, 0), (1, 0, 0)]),
    "a form feed": (b"v 0 0 0\n\fv 1 0 0\n", [(0, 0, 0), (1, 0, 0)]),
    "a comment behind": (b"v 0 0 0 # origin\nv 1 0 0 #\n", [(0, 0, 0), (1, 0, 0)]),
    "weights": (b"v 0 0 1 1\nv 1 0 0 0.5\n", [(0, 0, 1), (1, 0, 0)]),
}


@pytest.mark.parametrize(("content", "vertices"), SCENES.values(), ids=SCENES)
def test_scene_of_an_obj_is_its_vertices_in_the_files_order(tmp_path, content, vertices):
    found = read_cloud(write(tmp_path / "a.obj", content), scene=True)
    assert found.keys() == {"points"}
    assert np.array_equal(found["points"], vertices)
