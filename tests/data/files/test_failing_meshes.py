"""Small meshes and PLY files that once failed, each at the value that other programs give, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.data.specs import load_data

FILES = Path(__file__).parents[1] / "failing"
CORNERS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
PAIR = [(0, 0, 0), (1, 0, 0)]
PRIMARY = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
# Vertices in the file's order, and colours.
SCENES = {
    "points_only.obj": (CORNERS, None),
    "points_only.off": (CORNERS, None),
    "vertex_colours.obj": (CORNERS[:3], PRIMARY),
    "vertex_colours.off": (CORNERS[:3], PRIMARY),
    "rgb_short_names.ply": (PAIR, PRIMARY[:2]),
    "upper_xyz.ply": (PAIR, None),
    "bom.ply": (PAIR, None),
    "polygon_over_lines.off": ([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], None),
    "tristrips.ply": ([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)], None),
}
REFUSED = {
    "two_solids_cut_short.stl": "cut short: its solid 2 has no end",
    "trailing_bytes.stl": "10 bytes more than its header says",
    "gltf_folder/chair/train/scene_01.gltf": "buffer .Mesh_PrimitiveMode_01.bin. is not there",
}


@pytest.mark.parametrize("name", SCENES)
def test_scene_has_the_files_vertices_and_colours(name):
    points, rgb = SCENES[name]
    cloud = read_cloud(FILES / name, scene=True)
    assert np.array_equal(cloud["points"], points)
    assert np.array_equal(cloud["rgb"], rgb) if rgb else "rgb" not in cloud


@pytest.mark.parametrize(("name", "count"), [("one_box.stl", 36), ("two_boxes.stl", 72), ("two_solids.stl", 9)])
def test_corners_of_an_stl_are_in_the_files_order_however_many_solids_it_has(name, count):
    found = read_cloud(FILES / name, scene=True)["points"]
    lines = [line.split() for line in (FILES / name).read_text().splitlines()]
    assert np.array_equal(found, np.array([line[1:] for line in lines if line[:1] == ["vertex"]], np.float32))
    assert len(found) == count


@pytest.mark.parametrize("name", ["points_only.obj", "points_only.off", "rgb_short_names.ply", "upper_xyz.ply", "bom.ply"])
def test_vertices_without_faces_are_a_cloud(name):
    points, rgb = SCENES[name]
    cloud = read_cloud(FILES / name)
    assert np.array_equal(cloud["points"], points)
    assert cloud.keys() == ({"points", "rgb"} if rgb else {"points"})


@pytest.mark.parametrize("name", ["polygon_over_lines.off", "tristrips.ply"])
def test_a_square_of_one_polygon_or_strip_is_sampled_whole(name):
    cloud = read_cloud(FILES / name, points=4000)
    counts, _, _ = np.histogram2d(*cloud["points"][:, :2].T, 2, [(0, 1), (0, 1)])
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(750)
    assert np.abs(cloud["normals"]).tolist() == [[0, 0, 1]] * 4000
    assert len(np.unique(cloud["normals"], axis=0)) == 1  # the strip's second triangle is turned back


@pytest.mark.parametrize("scene", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_or_has_no_surface_is_refused(name, scene):
    with pytest.raises(InvalidInputError, match=REFUSED[name]) as caught:
        read_cloud(FILES / name, scene=scene)
    assert "\n" not in str(caught.value)


def test_each_is_one_object_of_a_data_set(tmp_path):
    names = [*SCENES, "one_box.stl", "two_boxes.stl", "two_solids.stl"]
    for split in ("train", "test"):
        folder = tmp_path / "thing" / split
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(FILES / name, folder / name)
    with pytest.warns(UserWarning, match="have no"):
        train, test = load_data(f"folder:{tmp_path}")
    assert len(train) == len(test) == len(names)


def test_a_gltf_file_that_has_lost_its_buffer_is_refused_by_name():
    with pytest.warns(UserWarning, match="4 .bin"), pytest.raises(InvalidInputError, match=r"\.gltf.*is not there"):
        load_data(f"folder:{FILES / 'gltf_folder'}")
