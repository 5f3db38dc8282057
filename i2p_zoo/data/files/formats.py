"""The formats of files of clouds and meshes, each read from an open file as its library gives it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.e57 import read_e57
from i2p_zoo.data.files.las import read_las, read_laz
from i2p_zoo.data.files.named_columns import Columns
from i2p_zoo.data.files.numpy_files import read_npy, read_npz
from i2p_zoo.data.files.pcd import read_pcd
from i2p_zoo.data.files.ply import RGB, Lists, read_ply, vertex_columns
from i2p_zoo.data.files.raw_floats import read_bin
from i2p_zoo.data.files.text_clouds import TEXT_SUFFIXES, read_text
from i2p_zoo.errors import InvalidInputError


def _read_off(file: IO[bytes]) -> Arrays:
    text = _uncommented(file.read().decode("latin-1"))
    header = re.match(r"\s*[A-Z]*OFF\s*(\d+)\s+(\d+).*", text)  # some of ModelNet's have the counts right after `OFF`
    if header is None:
        raise InvalidInputError("an OFF file begins with `OFF` and the counts of its vertices and faces.")
    count, face_count = int(header[1]), int(header[2])
    lines = [line for line in text[header.end() :].splitlines() if line.strip()]
    if not count or len(lines) < count + face_count:
        raise InvalidInputError(f"{len(lines)} of the lines of its {count} vertices and {face_count} faces: it is cut short.")
    if len(lines) > count + face_count:
        raise InvalidInputError(f"it has {len(lines)} lines; by its header it has {count} vertices and {face_count} faces.")
    return {"points": _positions(lines[:count]), **_faces(lines[count:])}


def _uncommented(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return re.sub(r"(?<!\S)#.*", "", text)  # 1.#INF, as older runtimes of Microsoft print it, is not a number with a comment


def _positions(lines: Sequence[str]) -> NDArray[np.float64]:
    return np.loadtxt(lines, np.float64, comments=None, usecols=(0, 1, 2), ndmin=2)


def _faces(lines: Sequence[str]) -> Arrays:
    """Returns the polygons, each a line of its number of corners, their vertices and more that is left out."""
    if {line.split(None, 1)[0] for line in lines} == {"3"}:  # numpy reads these ten times as fast
        triangles = np.loadtxt(lines, np.int64, comments=None, usecols=(1, 2, 3), ndmin=2)
        return {"corners": triangles.reshape(-1), "sizes": np.full(len(triangles), 3)}
    rows = [line.split() for line in lines]
    sizes = np.array([int(row[0]) for row in rows], np.int64)
    if any(not 0 <= size < len(row) for size, row in zip(sizes, rows, strict=True)):
        raise InvalidInputError("a face has fewer vertices than its line says: the file is cut short.")
    words = [word for size, row in zip(sizes, rows, strict=True) for word in row[1 : size + 1]]
    return {"corners": np.array(words, np.int64), "sizes": sizes}


def _read_obj(file: IO[bytes]) -> Arrays:
    text = _uncommented(file.read().removeprefix(b"\xef\xbb\xbf").decode("latin-1"))
    joined = re.compile(r"^[ \t]*[vf][ \t](?:.*\\\n)*.*", re.MULTILINE)  # elsewhere a backslash is part of a name
    text = joined.sub(lambda line: line[0].replace("\\\n", " "), text)
    vertices, faces = (list(re.finditer(rf"^[ \t]*{letter}[ \t]+(.*)", text, re.MULTILINE)) for letter in "vf")
    if not vertices:
        raise InvalidInputError("it has no vertices, lines such as `v 0 0 1`.")
    rows = [re.sub(r"/\S*", "", face[1]) for face in faces]
    polygons = _faces([f"{len(row.split())} {row}" for row in rows])
    numbers = polygons["corners"]  # from 1, or negative, backwards from the last vertex before the face
    before = np.searchsorted([vertex.start() for vertex in vertices], [face.start() for face in faces])
    polygons["corners"] = np.where(numbers < 0, np.repeat(before, polygons["sizes"]) + numbers, numbers - 1)
    return {"points": _positions([vertex[1] for vertex in vertices]), **polygons}


def _read_ply(file: IO[bytes]) -> Arrays:
    elements = read_ply(file)
    if "tristrips" in elements and "face" not in elements:
        raise InvalidInputError("its faces are strips of triangles (`tristrips`); write them as faces.")
    cloud = {"points": np.stack(vertex_columns(elements, "xyz"), 1)}
    if not len(cloud["points"]):
        raise InvalidInputError("it has no vertices.")
    for name, columns in (("normals", ("nx", "ny", "nz")), ("colors", RGB)):
        if set(columns) <= elements["vertex"].keys():
            cloud[name] = np.stack(vertex_columns(elements, columns), 1)
    read = {"x", "y", "z", "nx", "ny", "nz", *RGB}
    for name, column in elements["vertex"].items():
        if name not in read and not isinstance(column, Lists):
            cloud["intensity" if name == "intensity" else f"field:{name}"] = column
    lists = {name: each for name, each in elements.get("face", {}).items() if isinstance(each, Lists)}
    integers = [name for name, each in lists.items() if each.values.dtype.kind in "iu"]
    polygons = next((lists[name] for name in ("vertex_indices", "vertex_index", *integers) if name in lists), None)
    if polygons and len(polygons.sizes):
        cloud["corners"], cloud["sizes"] = polygons.values.astype(np.int64), polygons.sizes
    return cloud


def _read_stl(file: IO[bytes]) -> Arrays:
    mesh = require("trimesh", "data").load(file, file_type="stl", force="mesh", process=False, skip_materials=True)
    faces = np.asarray(mesh.faces, np.int64)
    return {"points": np.asarray(mesh.vertices), "corners": faces.reshape(-1), "sizes": np.full(len(faces), 3)}


# By ending. Each gives `points`; where the file has them `normals`, `colors` of any type, and (N,) of other columns,
# `intensity` or `field:NAME`; of a mesh the vertices that its polygons name one after the other, `corners`, and how many each
# has, `sizes`.
READERS: dict[str, Callable[[IO[bytes]], Arrays]] = {
    ".ply": _read_ply,
    ".off": _read_off,
    ".obj": _read_obj,
    ".stl": _read_stl,
    ".pcd": read_pcd,
    ".e57": read_e57,
}
# Of these the scalars take time to unpack, so that they are read for scenes only.
SCENE_READERS: dict[str, Callable[[IO[bytes], bool], Arrays]] = {".las": read_las, ".laz": read_laz}
# Of these the columns can be said.
COLUMN_READERS: dict[str, Callable[[IO[bytes], Columns | None], Arrays]] = {
    ".bin": read_bin,
    ".npy": read_npy,
    ".npz": read_npz,
    **dict.fromkeys(TEXT_SUFFIXES, read_text),
}
