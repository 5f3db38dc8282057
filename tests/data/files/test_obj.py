"""OBJ files as MeshLab, Blender, Open3D and trimesh write them, and the parts of the format that few readers know."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

POINTS = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
RGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
UP = [(0, 0, 1)] * 3
VERTICES = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
COLORED = "v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\n"
SCENES = {
    "fractions": (COLORED + "f 1 2 3\n", {"rgb"}),
    "bytes": (
        COLORED.replace(" 1 0 0\n", " 255 0 0\n").replace(" 0 1 0\n", " 0 255 0\n").replace(" 0 0 1\n", " 0 0 255\n"),
        {"rgb"},
    ),
    "weights": ("v 0 0 0 1\nv 1 0 0 1.0\nv 0 1 0 0.5\n", set()),
    "weights of some": ("v 0 0 0\nv 1 0 0 1.0\nv 0 1 0\nf 1 2 3\n", set()),
    "normals in MeshLab's order": ("vn 0 0 1\n" + VERTICES.replace("\nv", "\nvn 0 0 1\nv"), {"normals"}),
    "a normal for each vertex": (VERTICES + "vn 0 0 1\n" * 3 + "f 1//1 2//2 3//3\n", {"normals"}),
    "one normal for all": (VERTICES + "vt 0 0\nvn 0 0 1\nf 1/1/1 2/1/1 3/1/1\n", {"normals"}),
    "normals counted backwards": (VERTICES + "vn 1 0 0\nvn 0 0 1\nf -3//-1 -2//-1 -1//-1\n", {"normals"}),
    "normals that differ": (VERTICES + "v 1 1 0\nvn 0 0 1\nvn 1 0 0\nf 1//1 2//1 3//1\nf 2//2 4//2 3//2\n", set()),
    "corners without a normal": (VERTICES + "vt 0 0\nvn 0 0 1\nf 1/1 2/1 3/1\n", set()),
    "corners of several kinds": (VERTICES + "vt 0 0\nvn 0 0 1\nf 1/1/1 2 3/1\nf 1//1 2/1 3/1/1\n", set()),
    "tabs and Windows' lines": (COLORED.replace(" ", "\t").replace("\n", "\r\n") + "f\t1\t2\t3\r\n", {"rgb"}),
    "lines and points": (VERTICES + "l 1 2\np 1 2 3\n", set()),
}


@pytest.mark.parametrize(("text", "names"), SCENES.values(), ids=SCENES)
def test_scene_has_vertices_with_colours_and_normals(tmp_path, text, names):
    (tmp_path / "a.obj").write_bytes(text.encode())
    cloud = read_cloud(tmp_path / "a.obj", scene=True)
    assert cloud.keys() == {"points"} | names
    assert np.array_equal(cloud["points"][:3], POINTS)
    assert np.array_equal(cloud.get("rgb", RGB), RGB)
    assert np.array_equal(cloud.get("normals", UP), UP)


def test_a_coloured_mesh_of_trimesh_comes_back_and_gives_its_colours_to_points(tmp_path):
    mesh = trimesh.Trimesh(POINTS, [(0, 1, 2)], vertex_colors=RGB, process=False)
    mesh.export(tmp_path / "a.obj")
    assert np.array_equal(read_cloud(tmp_path / "a.obj", scene=True)["rgb"], RGB)
    cloud = read_cloud(tmp_path / "a.obj", points=100)
    x, y, _ = cloud["points"].T
    assert np.abs(cloud["rgb"] - 255 * np.stack([1 - x - y, x, y], 1)).max() <= 0.51


def test_materials_and_strange_columns_are_told(tmp_path):
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{VERTICES}usemtl red\nf 1 2 3\n")
    with pytest.warns(UserWarning, match="its materials, which stand in another file"):
        read_cloud(tmp_path / "a.obj")
    (tmp_path / "b.obj").write_text("v 0 0 0 1 0 0\nv 1 0 0\n")
    with pytest.warns(UserWarning, match="no colours of three for each"):
        assert read_cloud(tmp_path / "b.obj").keys() == {"points"}


REFUSED = {
    "a vertex of two": ("v 0 0 0\nv 1 0\n", "fewer than three numbers: '1 0'"),
    "a vertex of none": ("v 0 0 0\nv \n", "begins with `v`.* has no numbers"),
    "a face of none": (VERTICES + "f \n", "`f` has no numbers"),
    "a word": ("v 0 0 zero\n", "found 'zero'"),
    "corners that touch": (VERTICES + "f 1 2-3\n", "found '2-3'"),
    "a corner 0": (VERTICES + "f 0 1 2\n", "-1 to 1 of 3"),
    "a corner beyond": (VERTICES + "f 1 2 4\n", "0 to 3 of 3"),
    "a normal of two": ("vn 0 0\n" + VERTICES, "a normal has 2 numbers"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_is_refused_as_a_scene_too(tmp_path, text, message):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_cloud(tmp_path / "a.obj", scene=True)
