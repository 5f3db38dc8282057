"""Binary clouds: a width is said, noted beside the file or shown by its values, and never guessed."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

RANDOM = np.random.default_rng(0)


def scan(count=2000, extra=()):
    """A turn of a LiDAR with noise: x, y, z, an intensity from 0 to 1, and more columns."""
    angle = np.linspace(0, 2 * np.pi, count)
    distance = 20 + 10 * np.sin(5 * angle) + RANDOM.normal(size=count)
    rows = [distance * np.cos(angle), distance * np.sin(angle), RANDOM.uniform(-2, 3, count), RANDOM.uniform(0, 1, count) ** 2]
    return np.column_stack([*rows, *extra]).astype(np.float32)


def write(path, rows):
    rows.astype("<f4").tofile(path)
    return path


def test_a_scan_of_kitti_is_told_by_its_values(tmp_path):
    rows = scan()
    path = write(tmp_path / "000000.bin", rows)
    found = read_cloud(path, scene=True)
    assert np.array_equal(found["points"], rows)
    assert np.array_equal(found["intensity"], rows[:, 3:])
    assert np.array_equal(read_cloud(path)["points"], rows[:, :3])
    assert np.array_equal(read_cloud(path, columns=4, scene=True)["points"], rows)
    shuffled = RANDOM.permutation(rows)
    assert np.array_equal(read_cloud(write(tmp_path / "b.bin", shuffled), scene=True)["points"], shuffled)


RINGS = np.arange(2000) % 32
OTHERS = {
    "nuScenes": scan(extra=[RINGS]),
    "Waymo": scan(extra=[RANDOM.uniform(0, 1, 2000), np.zeros(2000)]),
    "SUN RGB-D": np.column_stack([scan()[:, :3], RANDOM.uniform(0, 1, (2000, 3))]),
    "points alone": scan()[:, :3],
    "objects in a unit cube": RANDOM.uniform(0, 1, (2000, 6)),
    "eight columns": scan(extra=RANDOM.uniform(0, 1, (4, 2000))),
    "normals": np.column_stack([scan()[:, :3], np.tile([0, 0, 1.0], (2000, 1))]),
    "doubles": scan().astype("<f8").view("<f4"),
    "a picture": RANDOM.integers(0, 2**32, 8000, dtype=np.uint32).view("<f4"),
    "whole numbers": np.arange(8000, dtype=np.int32).view("<f4"),
    "few points": scan(10),
    "zeros": np.zeros((100, 4)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_content_is_refused_with_the_choices(tmp_path, name):
    rows = np.asarray(OTHERS[name], "<f4")
    assert rows.nbytes % 16 == 0, "or the size alone would tell"
    with pytest.raises(InvalidInputError, match=r"a\.bin.*columns=4 \(KITTI.*5 \(nuScenes"):
        read_cloud(write(tmp_path / "a.bin", rows))


def test_columns_that_are_said_are_read(tmp_path):
    colored = np.column_stack([scan()[:, :3], RANDOM.integers(0, 256, (2000, 3))])
    found = read_cloud(write(tmp_path / "a.bin", colored), columns="x,y,z,r,g,b")
    assert np.array_equal(found["rgb"], colored[:, 3:])
    assert np.array_equal(read_cloud(tmp_path / "a.bin", columns=6)["rgb"], colored[:, 3:]), "whole numbers to 255"
    waymo = read_cloud(write(tmp_path / "b.bin", OTHERS["Waymo"]), columns="x y z i elongation time".split(), scene=True)
    assert list(waymo) == ["points", "intensity", "field:elongation", "field:time"]
    assert np.array_equal(waymo["field:elongation"][:, 0], OTHERS["Waymo"][:, 4])


def test_nuscenes_is_known_by_its_ending(tmp_path):
    rows = np.array([[-3.1243734, -0.43415368, -1.867192, 4, 0], [-0.0698264, 0.24051876, -0.36144143, 33, 1]], np.float32)
    found = read_cloud(write(tmp_path / "scan__LIDAR_TOP.pcd.bin", rows), scene=True)
    assert np.array_equal(found["points"], rows[:, :3])
    assert found["intensity"].tolist() == [[4], [33]]
    assert found["field:ring"].tolist() == [[0], [1]]


def test_a_buffer_of_gltf_is_no_cloud_unless_its_columns_are_said(tmp_path):
    rows = scan()
    write(tmp_path / "scene.bin", rows)
    (tmp_path / "model.GLTF").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"\.gltf file stands beside it"):
        read_cloud(tmp_path / "scene.bin")
    assert np.array_equal(read_cloud(tmp_path / "scene.bin", columns=4)["points"], rows[:, :3])


@pytest.mark.parametrize("columns", [None, 4])
def test_cloudcompares_own_file_is_refused_with_the_way_out(tmp_path, columns):
    (tmp_path / "a.bin").write_bytes(b"CCB2" + bytes(60))
    with pytest.raises(InvalidInputError, match=r"CloudCompare's own file.*save the cloud there as \.ply or \.las"):
        read_cloud(tmp_path / "a.bin", columns=columns)


def test_a_width_that_does_not_divide_the_file_is_refused(tmp_path):
    path = write(tmp_path / "a.bin", scan(extra=[RINGS])[:7])
    with pytest.raises(InvalidInputError, match=r"4 columns are 16 bytes a point, of which its 140 bytes are no multiple"):
        read_cloud(path, columns=4)


def test_columns_of_a_format_that_names_them_are_refused(tmp_path):
    (tmp_path / "a.ply").write_bytes(b"ply\n")
    with pytest.raises(InvalidInputError, match=r"a\.ply names its columns itself"):
        read_cloud(tmp_path / "a.ply", columns=4)
