"""PLY files of other programs: names of columns, strips, lists of every kind, and headers that few readers expect."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(9, 3)).astype(np.float32)
RGB = RANDOM.integers(0, 256, (9, 3))
UP = np.tile((0, 0, 1), (9, 1))
NAMES = {"<": "binary_little_endian", ">": "binary_big_endian"}
CODES = {"u1": "uchar", "i1": "char", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double", "i8": "int64"}


def ply(columns, order="<", before=b"", before_header=(), after=b"", after_header=()):
    """A binary PLY file of (name, code, values) of its vertices, and rows of other elements before and behind them."""
    rows = np.zeros(len(columns[0][2]), [(name, order + code) for name, code, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    lines = ["ply", f"format {NAMES[order]} 1.0", *before_header, f"element vertex {len(rows)}"]
    lines += [f"property {CODES[code]} {name}" for name, code, _ in columns]
    return "\n".join([*lines, *after_header, "end_header", ""]).encode() + before + rows.tobytes() + after


def triple(names, code, values):
    return [(name, code, column) for name, column in zip(names.split(), np.transpose(values), strict=True)]


XYZ = triple("x y z", "f4", POINTS)
CLOUDS = {
    "any order": [*triple("blue red green", "u1", RGB[:, [2, 0, 1]]), *XYZ[::-1]],
    "small and large": [*triple("X Y Z", "f4", POINTS), *triple("Red Green Blue", "u1", RGB)],
    "diffuse": [*XYZ, *triple("diffuse_red diffuse_green diffuse_blue", "u1", RGB)],
    "letters": [*XYZ, *triple("r g b", "u1", RGB)],
    "wide": [*XYZ, *triple("red green blue", "u2", RGB * 257)],
    "fractions": [*XYZ, *triple("red green blue", "f8", RGB / 255)],
    "normals": [*triple("nx ny nz", "f4", UP), *XYZ],
    "long normals": [*XYZ, *triple("normal_x normal_y normal_z", "f8", UP)],
}


def read(folder, content, **options):
    (folder / "a.ply").write_bytes(content)
    return read_cloud(folder / "a.ply", **options)


@pytest.mark.parametrize("order", NAMES)
@pytest.mark.parametrize("columns", CLOUDS.values(), ids=CLOUDS)
def test_colours_and_normals_by_any_programs_names(tmp_path, columns, order):
    cloud = read(tmp_path, ply(columns, order))
    assert np.array_equal(cloud["points"], POINTS)
    assert len(cloud) == 2
    assert np.array_equal(cloud.get("rgb", RGB), RGB)
    assert np.array_equal(cloud.get("normals", UP), UP)


def test_other_columns_are_a_scenes_intensity_and_fields(tmp_path):
    columns = [*XYZ, ("scalar_Intensity", "f4", np.arange(9)), ("label", "i4", np.arange(9) - 1)]
    cloud = read(tmp_path, ply(columns), scene=True)
    assert cloud.keys() == {"points", "intensity", "field:label"}
    assert cloud["intensity"].tolist() == [[number] for number in range(9)]
    assert cloud["field:label"].tolist() == [[number - 1] for number in range(9)]
    assert read(tmp_path, ply(columns)).keys() == {"points"}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("code", "full"), [("u1", 255), ("u2", 65535)])
def test_an_intensity_of_integers_is_a_fraction_in_either_byte_order(order, code, full, tmp_path):
    cloud = read(tmp_path, ply([*XYZ, ("intensity", code, np.arange(9) * full // 8)], order), scene=True)
    assert np.allclose(cloud["intensity"][:, 0], np.arange(9) / 8, atol=1 / full)


@pytest.mark.parametrize("code", ["u2", "i4", "i8", "f8"])
def test_coordinates_of_any_type_keep_their_value(tmp_path, code):
    values = np.array([[1, 2, 3], [60000, 5, 6]]) if code[0] != "f" else np.array([[500_000.125, 5_400_000.001, 0.1]])
    assert np.array_equal(read(tmp_path, ply(triple("x y z", code, values)))["points"], values)


@pytest.mark.parametrize("order", NAMES)
def test_lists_before_the_vertices_and_of_every_kind_are_passed_over(tmp_path, order):
    lists = [np.arange(size) for size in (3, 0, 7)]
    parts = [np.array(len(each), order + "u4").tobytes() + each.astype(order + "f8").tobytes() + b"\x07" for each in lists]
    header = ["element camera 3", "property list uint double view", "property uchar kind"]
    content = ply([*XYZ, *triple("r g b", "u1", RGB)], order, b"".join(parts), header)
    assert np.array_equal(read(tmp_path, content)["points"], POINTS)
    with pytest.raises(InvalidInputError, match=r"cut short: 8 of 9 rows of the element 'vertex'"):
        read(tmp_path, content[:-1])


STRIPS = {
    "one": ([0, 1, 2, 3], [(0, 1, 2), (2, 1, 3)]),
    "two": ([0, 1, 2, -1, 3, 2, 1], [(0, 1, 2), (3, 2, 1)]),
    "a turn": ([0, 1, 2, 3, 0], [(0, 1, 2), (2, 1, 3), (2, 3, 0)]),
    "ends": ([-1, 0, 1, 2, -1, 0, 1, -1], [(0, 1, 2)]),
}


@pytest.mark.parametrize("name", STRIPS)
@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_strips_are_divided_as_stanfords_are(tmp_path, encoding, name):
    values, triangles = STRIPS[name]
    square = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0.5)])
    header = ["element tristrips 1", "property list int int vertex_indices"]
    after = np.array([len(values), *values], "<i4").tobytes()
    content = ply(triple("x y z", "f4", square), after=after, after_header=header)
    if encoding == "ascii":
        head = content[: content.index(b"end_header\n") + 11].replace(b"binary_little_endian", b"ascii")
        rows = "\n".join(" ".join(map(str, row)) for row in [*square.tolist(), [len(values), *values], []])
        content = head + rows.encode()
    trimesh.Trimesh(square, triangles, process=False).export(tmp_path / "b.off")
    strips, faces = read(tmp_path, content, points=50), read_cloud(tmp_path / "b.off", 50)
    assert np.allclose(strips["points"], faces["points"], atol=1e-6)
    assert np.allclose(strips["normals"], faces["normals"], atol=1e-6)


@pytest.mark.parametrize("kind", ["vertex", "face"])
def test_points_drawn_have_the_colours_of_their_corners_or_face(tmp_path, kind):
    corners, rgb = [(0, 0, 0), (1, 0, 0), (0, 1, 0)], np.diag([255, 255, 255])
    mesh = trimesh.Trimesh(corners, [(0, 1, 2)], process=False)
    setattr(mesh.visual, f"{kind}_colors", rgb if kind == "vertex" else [(7, 8, 9)])
    cloud = read(tmp_path, mesh.export(file_type="ply"), points=200)
    x, y, _ = cloud["points"].T
    expected = 255 * np.stack([1 - x - y, x, y], 1) if kind == "vertex" else np.tile((7, 8, 9), (200, 1))
    assert np.abs(cloud["rgb"] - expected).max() <= 0.51


def test_a_texture_is_told(tmp_path):
    content = ply(XYZ).replace(b"1.0\n", b"1.0\ncomment TextureFile wood.png\n", 1)
    with pytest.warns(UserWarning, match="its texture left out"):
        assert read(tmp_path, content).keys() == {"points"}


HEADER = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
ROWS = "0 0 0\n1 0 0\n"
HEADERS = {
    "Windows": (HEADER + ROWS).replace("\n", "\r\n"),
    "old Macintosh": (HEADER + ROWS).replace("\n", "\r"),
    "capitals": HEADER.upper().replace("X", "x") + ROWS,
    "long blanks": HEADER.replace(" ", " \t ").replace("end_header", " end_header ") + ROWS.replace(" ", "\t\t"),
    "a comment of the end": HEADER.replace("end_header", "comment end_header\nobj_info end_header\nend_header") + ROWS,
    "no last line feed": HEADER + ROWS.strip(),
    "an element of nothing": HEADER.replace("end_header", "element face 0\nproperty list uchar int a\nend_header") + ROWS,
}


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_headers_of_any_program(tmp_path, text):
    assert read(tmp_path, text.encode())["points"].tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_binary_rows_begin_right_behind_the_header_whatever_its_line_ends(tmp_path, end):
    content = ply(triple("x y z", "f4", [[np.float32(1e-44), 2, 3]]))  # whose first byte is a small number
    head, rows = content.split(b"end_header\n")
    rows = b"\n" + rows[1:]  # a line feed that is no part of the header
    found = read(tmp_path, head.replace(b"\n", end.encode()) + b"end_header" + end.encode() + rows)["points"]
    assert np.array_equal(found, np.frombuffer(rows, "<f4").reshape(1, 3))


REFUSED = {
    "four billion vertices": (ply(XYZ).replace(b"vertex 9", b"vertex 4000000000"), "cut short: 9 of 4000000000"),
    "four billion rows of nothing": (
        ply(XYZ, after_header=["element nothing 4000000000"], after=b"1"),
        "1 bytes more than its header says",
    ),
    "a list of four billion": (
        ply(XYZ, after_header=["element face 1", "property list uint int a"], after=b"\xff" * 8),
        "cut short: 0 of 1 rows of the element 'face'",
    ),
    "a list of minus one": (
        ply(XYZ, after_header=["element face 2", "property list char int a"], after=b"\0\xff" + b"\xff" * 8),
        "has -1 values",
    ),
    "a list of a fraction": (ply(XYZ, after_header=["element face 0", "property list float int a"]), "whose length is a float"),
    "a name twice": (
        ply([*XYZ, ("w", "f4", 0 * UP[:, 0])]).replace(b"float w", b"float X"),
        "a name twice of the element 'vertex'",
    ),
    "an element twice": (ply(XYZ, after_header=["element vertex 0"]), "a name twice: .'vertex', 'vertex'"),
    "no format": (HEADER.replace("format ascii 1.0\n", "").encode(), "element vertex 2"),
    "two formats": (HEADER.replace("1.0\n", "1.0\nformat ascii 1.0\n").encode(), "line 'format ascii 1.0'"),
    "faces and strips": (
        ply(
            XYZ,
            after_header=[f"element {each} 1\nproperty list uchar uchar vertex_indices" for each in ("face", "tristrips")],
            after=b"\x03\0\1\2" * 2,
        ),
        "faces and strips of triangles",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_its_header_cannot_mean_is_refused(tmp_path, content, message):
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path, content, scene=True)
