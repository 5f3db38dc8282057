"""OFF files as Geomview, CGAL, MeshLab, Open3D, trimesh and ModelNet write them."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

POINTS = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
RGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
FACE = "3 0 1 2\n"


def rows(*columns):
    return "".join(" ".join(map(str, np.concatenate(parts))) + "\n" for parts in zip(*columns, strict=True))


UP = [(0.0, 0.0, 1.0)] * 3
READ = {
    "COFF": (f"COFF\n3 1 0\n{rows(POINTS, RGB)}{FACE}", {"rgb"}),
    "COFF with alpha": (f"COFF 3 1 0\n{rows(POINTS, RGB, [(9,)] * 3)}{FACE}", {"rgb"}),
    "COFF of fractions": (f"COFF\n3 1 0\n{rows(POINTS, np.array(RGB) / 255, [(0.5,)] * 3)}{FACE}", {"rgb"}),
    "NOFF": (f"NOFF\n3 1\n{rows(POINTS, UP)}{FACE}", {"normals"}),
    "CNOFF": (f"CNOFF\n3 1 0\n{rows(POINTS, UP, RGB)}{FACE}", {"normals", "rgb"}),
    "NCOFF": (f"NCOFF\n3 1 0\n{rows(POINTS, UP, RGB)}{FACE}", {"normals", "rgb"}),
    "STOFF": (f"STOFF\n3 1 0\n{rows(POINTS, [(0, 0.5)] * 3)}{FACE}", set()),
    "STCNOFF": (f"STCNOFF\n3 1 0\n{rows(POINTS, UP, RGB, [(7,)] * 3, [(0, 0.5)] * 3)}{FACE}", {"normals", "rgb"}),
    "small letters and comments": (
        f"# made by hand\noff # OFF\n# 9 9 9\n3 1 0 # counts\n{rows(POINTS)}# faces\n{FACE}#",
        set(),
    ),
    "a byte order mark, CRLF and tabs": (
        f"\ufeffOFF\n3 1 0\n{rows(POINTS)}{FACE}".replace(" ", "\t").replace("\n", "\r\n"),
        set(),
    ),
    "vertices alone": (f"COFF\n3 0 0\n{rows(POINTS, RGB)}", {"rgb"}),
}


@pytest.mark.parametrize(("text", "names"), READ.values(), ids=READ)
def test_vertices_with_what_the_letters_before_off_announce(tmp_path, text, names):
    (tmp_path / "a.off").write_text(text, encoding="utf-8")
    cloud = read_cloud(tmp_path / "a.off", scene=True)
    assert cloud.keys() == {"points"} | names
    assert np.array_equal(cloud["points"], POINTS)
    assert np.array_equal(cloud.get("rgb", RGB), RGB)
    assert np.array_equal(cloud.get("normals", UP), UP)


def test_a_box_of_trimesh_comes_back(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    box.export(tmp_path / "a.off")
    assert np.allclose(read_cloud(tmp_path / "a.off", scene=True)["points"], box.vertices, atol=1e-7)
    assert np.abs(np.abs(read_cloud(tmp_path / "a.off", 500)["points"]) / (0.5, 1, 1.5)).max(1) == pytest.approx(1, abs=1e-6)


FACES = "4 0 1 2 3 255 0 0\n4 4 5 6 7 0 255 0 128\n"
SQUARES = [(x, y, z) for z in (0, 5) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]


def test_colours_of_faces_are_those_of_the_points_drawn_on_them(tmp_path):
    (tmp_path / "a.off").write_text(f"OFF\n8 2 0\n{rows(SQUARES)}{FACES.replace(' 128', '')}")
    cloud = read_cloud(tmp_path / "a.off", points=200)
    assert np.array_equal(cloud["rgb"], np.where(cloud["points"][:, 2:] == 0, (255, 0, 0), (0, 255, 0)))
    with pytest.warns(UserWarning, match="colours of its faces, which its vertices have not"):
        assert "rgb" not in read_cloud(tmp_path / "a.off", scene=True)


LEFT_OUT = {
    "a colour for some faces": (
        f"OFF\n8 2 0\n{rows(SQUARES)}4 0 1 2 3\n4 4 5 6 7 9 9 9\n",
        "colours that only some of its faces",
    ),
    "a colour map": (f"OFF\n8 2 0\n{rows(SQUARES)}4 0 1 2 3 7\n4 4 5 6 7 8\n", "numbers of a palette"),
    "columns that OFF does not announce": (f"OFF\n3 1 0\n{rows(POINTS, RGB)}{FACE}", "3 numbers of each vertex that `OFF`"),
}


@pytest.mark.parametrize(("text", "message"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out_is_told(tmp_path, text, message):
    (tmp_path / "a.off").write_text(text)
    with pytest.warns(UserWarning, match=message):
        assert read_cloud(tmp_path / "a.off").keys() == {"points", "normals"}


REFUSED = {
    "four dimensions": ("4OFF\n1 0 0\n0 0 0 1\n", "three dimensions"),
    "n dimensions": ("nOFF\n3\n1 0 0\n0 0 0\n", "three dimensions"),
    "binary": ("OFF BINARY\n\0\0\0\1", "three dimensions"),
    "normals missing": (f"NOFF\n3 1 0\n{rows(POINTS)}{FACE}", "NOFF announces more"),
    "colours missing": (f"COFF\n3 1 0\n{rows(POINTS)}{FACE}", "COFF announces more"),
    "a row of two": ("OFF\n2 0 0\n0 0 0\n1 1\n", "row 1 has 2 numbers"),
    "a corner of a fraction": (f"OFF\n3 1 0\n{rows(POINTS)}3 0 1 1.5\n", "name the vertex 1.5"),
    "billions of vertices": ("OFF\n4000000000 4000000000 0\n0 0 0\n", "cut short"),
    "a wrapped polygon cut short": (f"OFF\n3 2 0\n{rows(POINTS)}3 0\n1 2\n3 0 1\n", "3 vertices and 2 faces"),
    "a polygon of a negative length": (f"OFF\n3 1 0\n{rows(POINTS)}-3 0 1 2\n", "fewer vertices than its line says"),
    "a corner beyond, as a scene": (f"OFF\n3 1 0\n{rows(POINTS)}3 0 1 3\n", "0 to 3 of 3"),
}


@pytest.mark.parametrize("scene", [False, True])
@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_file_is_refused(tmp_path, text, message, scene):
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_cloud(tmp_path / "a.off", scene=scene)
