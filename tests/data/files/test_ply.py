"""PLY files written by hand: vertices and polygons as they are, colours of every type, and lengths that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

SQUARE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
CODES = {"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def row(encoding, *values):
    """One row of (type, value) as text, or in bytes."""
    if encoding == "ascii":
        return " ".join(str(value) for _, value in values).encode() + b"\n"
    return b"".join(np.array(value, ORDERS[encoding] + CODES[kind]).tobytes() for kind, value in values)


def ply(encoding, vertices=SQUARE, polygons=(), colors=(), color_kind="uchar", uvs=False):
    lines = ["ply", f"format {encoding} 1.0", "comment made by hand", f"element vertex {len(vertices)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property {color_kind} {name}" for name in ("red", "green", "blue") if len(colors)]
    lines += [f"element face {len(polygons)}", "property list uchar int vertex_indices"]
    lines += ["property list uchar float texcoord"] if uvs else []
    rows = [
        row(encoding, *(("float", number) for number in vertex), *((color_kind, number) for number in color))
        for vertex, color in zip(vertices, colors or [()] * len(vertices), strict=True)
    ]
    for start, polygon in enumerate(polygons):
        uv = [("uchar", 2 * len(polygon)), *(("float", start + k) for k in range(2 * len(polygon)))] if uvs else []
        rows.append(row(encoding, ("uchar", len(polygon)), *(("int", corner) for corner in polygon), *uv))
    return "\n".join([*lines, "end_header", ""]).encode() + b"".join(rows)


def read(folder, content, **options):
    (folder / "a.ply").write_bytes(content)
    return read_cloud(folder / "a.ply", **options)


@pytest.mark.parametrize("uvs", [False, True], ids=["plain", "textured"])
@pytest.mark.parametrize("encoding", ORDERS)
def test_scene_is_the_files_own_vertices_in_order(tmp_path, encoding, uvs):
    vertices = [(9, 9, 9), *SQUARE]
    colors = [(10 * n, 20 * n, 30 * n) for n in range(5)]
    found = read(tmp_path, ply(encoding, vertices, [(1, 2, 3), (1, 3, 4)], colors, uvs=uvs), scene=True)
    assert np.array_equal(found["points"], vertices)
    assert np.array_equal(found["rgb"], colors)


@pytest.mark.parametrize("encoding", ORDERS)
@pytest.mark.parametrize("polygons", [[(0, 1, 2), (4, 5, 6, 7)], [(4, 5, 6, 7), (0, 1, 2)]], ids=["3 4", "4 3"])
def test_triangles_and_quads_may_be_mixed(tmp_path, encoding, polygons):
    raised = [(x, y, 5) for x, y, _ in SQUARE]
    points = read(tmp_path, ply(encoding, SQUARE + raised, polygons), points=3000)["points"]
    counts, _, _ = np.histogram2d(points[points[:, 2] == 5][:, 0], points[points[:, 2] == 5][:, 1], 2, [(0, 1), (0, 1)])
    assert np.abs(counts - 500).max() < 4.5 * np.sqrt(500)
    assert (points[points[:, 2] == 0][:, 0] >= points[points[:, 2] == 0][:, 1]).all()


COLORS = {
    "uchar": ("uchar", [0, 44, 255], [0, 44, 255]),
    "ushort": ("ushort", [0, 44 * 257, 65535], [0, 44, 255]),
    "bytes in ushort": ("ushort", [0, 44, 255], [0, 44, 255]),
    "fractions": ("float", [0, 0.25, 1], [0, 64, 255]),
    "fractions in double": ("double", [0, 0.25, 0.5], [0, 64, 128]),
    "bytes in float": ("float", [0, 44, 255], [0, 44, 255]),
    "bytes in int": ("int", [0, 1, 255], [0, 1, 255]),
    "fractions blended beyond one": ("float", [0, 0.25, 1.0000001], [0, 64, 255]),
    "only ones in int": ("int", [0, 1, 1], [0, 1, 1]),
}


@pytest.mark.parametrize("encoding", ORDERS)
@pytest.mark.parametrize(("kind", "values", "expected"), COLORS.values(), ids=COLORS)
def test_colours_of_any_type_are_read_by_their_range(tmp_path, encoding, kind, values, expected):
    found = read(tmp_path, ply(encoding, SQUARE[:3], (), [(value, 0, 0) for value in values], kind))
    assert found["rgb"].tolist() == [[value, 0, 0] for value in expected]


WRONG_COLORS = {
    "int beyond": ("binary_little_endian", "int", 300, "colours are int32 from 0 to 300; expected 0 to 255"),
    "int below": ("binary_little_endian", "int", -1, "from -1 to 0"),
    "float beyond": ("binary_little_endian", "float", 300, "colours are float32 from 0.0 to 300.0"),
    "a fraction far beyond one": ("ascii", "float", 1.5, "from 0.0 to 1.5"),
    "nan": ("ascii", "float", "nan", "from nan to nan"),
    "uchar beyond": ("ascii", "uchar", 300, "'red' has the value 300, which its type uint8 cannot hold"),
    "uchar below": ("ascii", "uchar", -1, "'red' has the value -1"),
    "fractions of uchar": ("ascii", "uchar", 0.5, "'red' has the value 0.5"),
}


@pytest.mark.parametrize(("encoding", "kind", "value", "message"), WRONG_COLORS.values(), ids=WRONG_COLORS)
def test_colours_of_no_known_range_are_refused(tmp_path, encoding, kind, value, message):
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path, ply(encoding, SQUARE[:2], (), [(0, 0, 0), (value, 0, 0)], kind))


def test_colours_of_a_mesh_follow_the_same_rule(tmp_path):
    content = ply("ascii", SQUARE, [(0, 1, 2)], [(1000, 0, 0)] * 4, "float")
    with pytest.raises(InvalidInputError, match=r"from 0\.0 to 1000\.0"):
        read(tmp_path, content, points=5)


TEXT, BINARY = ply("ascii", SQUARE, [(0, 1, 2)]), ply("binary_little_endian", SQUARE, [(0, 1, 2)])
MIXED = ply("binary_little_endian", SQUARE, [(0, 1, 2), (0, 1, 2, 3)])
MALFORMED = {
    "a vertex more": (ply("ascii") + b"5 5 5\n", "1 lines more than its header says, the first '5 5 5'"),
    "a vertex more before faces": (TEXT.replace(b"vertex 4", b"vertex 3"), "row of the element 'face' has 3 numbers, '0 1 0'"),
    "a face more": (TEXT + b"3 0 2 3\n", "1 lines more than its header says"),
    "a column more": (ply("ascii").replace(b"1 1 0\n", b"1 1 0 7\n"), "'vertex' has 4 numbers, '1 1 0 7'.* has 3"),
    "a column more in each row": (
        ply("ascii", [(5, 5, 5)]).replace(b"5 5 5", b"5 5 5 7"),
        "'vertex' has 4 numbers, '5 5 5 7'.* has 3",
    ),
    "a number more in a face": (TEXT.replace(b"3 0 1 2", b"3 0 1 2 3"), "'face' has 5 numbers, .*by the header it has 4"),
    "a number fewer in a face": (TEXT.replace(b"3 0 1 2", b"4 0 1 2"), "'face' has 4 numbers, .*by the header it has 5"),
    "a negative list": (TEXT.replace(b"3 0 1 2", b"-3 0 1 2").replace(b"list uchar", b"list char"), "has -3 values"),
    "a byte more": (BINARY + b"\0", "1 bytes more than its header says"),
    "a byte fewer": (BINARY[:-1], "cut short: 0 of 1 rows of the element 'face'"),
    "a mixed face cut": (MIXED[:-1], "cut short: 1 of 2 rows of the element 'face'"),
    "vertices cut": (BINARY[:-35], "cut short: 2 of 4 rows of the element 'vertex'"),
    "underscores": (TEXT.replace(b"3 0 1 2", b"3 0 1 0_2"), "expected numbers; found .0_2. in the line"),
    "an unknown format": (TEXT.replace(b"ascii", b"utf8"), "of ascii, binary_little_endian"),
    "an unknown type": (TEXT.replace(b"float z", b"real z"), "line 'property real z"),
    "a list for z": (TEXT.replace(b"float z", b"list uchar int z"), "z"),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_file_of_another_length_or_header_is_refused(tmp_path, content, message):
    with pytest.raises(InvalidInputError, match=rf"a\.ply cannot be read: .*{message}"):
        read(tmp_path, content)
