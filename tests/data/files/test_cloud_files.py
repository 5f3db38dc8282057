"""Files of every format: what is read of them and what is written."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import SUFFIXES, read_cloud
from i2p_zoo.data.files.ply import write_colored_ply
from i2p_zoo.errors import NotFoundError
from tests.data.files.example_files import (
    MESHES,
    NORMALS,
    POINTS,
    RANDOM,
    RGB,
    TRIANGLES,
    VERTICES,
    columns,
    las,
    obj,
    off,
    pcd,
    ply,
    save,
    write,
)


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
