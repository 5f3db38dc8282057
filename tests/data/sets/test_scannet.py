"""ScanNet in files of its layout: meshes whose vertices have colours and NYU40's ids, and every fault by name."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import hold_out_scenes
from i2p_zoo.data.sets.scannet import CLASSES, load_scannet
from i2p_zoo.errors import NotFoundError

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(7, 3)).astype("<f4")
RGB = RANDOM.integers(0, 256, (7, 3), dtype=np.uint8)
IDS = (1, 39, 0, 14, 13, 40, 149)
LABELS = [0, 19, -1, 12, -1, -1, -1]
CODES = {"float": "<f4", "uchar": "u1", "ushort": "<u2", "short": "<i2", "int": "<i4"}
COLORS = [(name, "uchar") for name in ("red", "green", "blue", "alpha")]


def ply(columns, faces=2, keep=None):
    """A mesh as ScanNet's, of columns (name, type, values) and of triangles."""
    count = len(columns[0][2])
    lines = ["ply", "format binary_little_endian 1.0", "comment MLIB generated", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for name, kind, _ in columns]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header", ""]
    rows = np.zeros(count, [(name, CODES[kind]) for name, kind, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    triangles = np.zeros(faces, [("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, (0, 1, 2)
    return ("\n".join(lines).encode() + rows.tobytes() + triangles.tobytes())[:keep]


def text_ply(keep=None):
    """The colored mesh without faces as text, as MeshLab may write it, of the first lines alone."""
    header = ply(colored(), 0).partition(b"end_header")[0].replace(b"binary_little_endian", b"ascii").splitlines()
    rows = [" ".join(map(str, [*point, *rgb, 255])).encode() for point, rgb in zip(POINTS.tolist(), RGB.tolist(), strict=True)]
    return b"\n".join([*header, b"end_header", *rows][:keep]) + b"\n"


def positions(points=POINTS):
    return [(name, "float", points[:, axis]) for axis, name in enumerate("xyz")]


def colored(points=POINTS, rgb=RGB):
    values = [*rgb.T, np.full(len(rgb), 255)]
    return [*positions(points), *((name, kind, v) for (name, kind), v in zip(COLORS, values, strict=True))]


def labelled(ids=IDS, kind="ushort"):
    points = np.zeros((len(ids), 3))
    return [*colored(points, np.zeros((len(ids), 3))), ("label", kind, ids)]


def write_room(folder, name, mesh=None, labels=None):
    room = folder / "scans" / name
    room.mkdir(parents=True)
    (room / f"{name}_vh_clean_2.ply").write_bytes(mesh or ply(colored()))
    (room / f"{name}_vh_clean_2.labels.ply").write_bytes(labels or ply(labelled()))
    (room / f"{name}.txt").write_text("axisAlignment = 1 0 0 0\n")


def write_release(folder, **files):
    write_room(folder, "scene0000_00")
    write_room(folder, "scene0000_01")
    write_room(folder, "scene0011_00", **files)
    write_room(folder, "scene0707_00")  # of the test split, which no list names
    (folder / "scannetv2_train.txt").write_text("scene0000_01\r\nscene0000_00\r\n")
    (folder / "scannetv2_val.txt").write_text("scene0011_00\n")
    return folder


def test_official_classes_are_these():
    assert len(set(CLASSES)) == 20
    assert (CLASSES[0], CLASSES[12], CLASSES[15], CLASSES[19]) == ("wall", "desk", "shower curtain", "other furniture")


def test_rooms_are_those_of_the_lists_in_their_order(tmp_path):
    train, test = load_scannet(str(write_release(tmp_path)))
    assert (train.names, test.names) == (("scene0000_01", "scene0000_00"), ("scene0011_00",))
    assert train.classes == test.classes == CLASSES


def test_the_scans_of_a_room_are_held_out_together(tmp_path):
    write_room(write_release(tmp_path), "scene0001_00")
    (tmp_path / "scannetv2_train.txt").write_text("scene0000_01\nscene0001_00\nscene0000_00\n")
    for seed in range(8):
        parts = hold_out_scenes(load_scannet(tmp_path)[0], 0.4, seed)
        assert {part.names for part in parts} == {("scene0000_01", "scene0000_00"), ("scene0001_00",)}


def test_vertices_have_colours_and_the_class_of_their_id(tmp_path):
    scene = load_scannet(write_release(tmp_path))[1].scene(0)
    assert np.array_equal(scene["points"], POINTS)
    assert np.array_equal(scene["rgb"], RGB)
    assert scene["labels"].tolist() == LABELS
    assert scene.keys() == {"points", "labels", "rgb"}


def test_a_mesh_may_be_text(tmp_path):
    scene = load_scannet(write_release(tmp_path, mesh=text_ply()))[1].scene(0)
    assert np.array_equal(scene["points"], POINTS)
    assert np.array_equal(scene["rgb"], RGB)


@pytest.mark.parametrize("kind", ["ushort", "short", "int"])
def test_the_benchmark_has_twenty_of_the_ids(tmp_path, kind):
    mesh = ply(colored(np.zeros((41, 3)), np.zeros((41, 3))))
    scene = load_scannet(write_release(tmp_path, mesh=mesh, labels=ply(labelled(range(41), kind))))[1].scene(0)
    official = [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]
    assert scene["labels"].tolist() == [official.index(number) if number in official else -1 for number in range(41)]


MESH, LABEL = r"scene0011_00_vh_clean_2\.ply", r"scene0011_00_vh_clean_2\.labels\.ply"
MALFORMED = {
    "no colours": ({"mesh": ply(positions())}, rf"{MESH}.*lack the properties \['red', 'green', 'blue'\]; they have \['x'"),
    "no ids": ({"labels": ply(colored())}, rf"{LABEL}.*lack the properties \['label'\]"),
    "fewer ids": ({"labels": ply(labelled(IDS[:5]))}, rf"{MESH} has 7 vertices and .*{LABEL} has 5"),
    "negative ids": ({"labels": ply(labelled((-1, *IDS[1:]), "short"))}, rf"{LABEL}.*NYU40's 1 to 40; found int16 \[-1"),
    "vast ids": ({"labels": ply(labelled((65536, *IDS[1:]), "int"))}, rf"{LABEL}.*int32 \[65536"),
    "fractional ids": ({"labels": ply(labelled(IDS, "float"))}, rf"{LABEL}.*float32"),
    "wide colours": (
        {"mesh": ply([(name, kind if kind == "float" else "ushort", values) for name, kind, values in colored()])},
        rf"{MESH}: colours must be of type uchar; found uint16",
    ),
    "nan": ({"mesh": ply(colored(POINTS * np.nan))}, "Scene 'scene0011_00': its points"),
    "a mesh cut in its vertices": ({"mesh": ply(colored(), keep=350)}, MESH),
    "a text cut short": ({"mesh": text_ply(-2)}, rf"{MESH}.*cut short: 5 of 7 rows"),
    "a mesh cut in its faces": ({"mesh": ply(colored(), keep=-3)}, MESH),
    "labels cut in their vertices": ({"labels": ply(labelled(), keep=380)}, LABEL),
    "a header cut short": ({"labels": ply(labelled(), keep=60)}, LABEL),
    "another file": ({"mesh": b"OFF\n3 1 0\n"}, MESH),
    "no vertices": ({"mesh": ply(colored(POINTS[:0], RGB[:0]), 0), "labels": ply(labelled(()), 0)}, "scene0011_00"),
}


@pytest.mark.parametrize(("files", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_file_that_does_not_fit_is_named(tmp_path, files, message):
    test = load_scannet(write_release(tmp_path, **files))[1]
    with pytest.raises(InvalidInputError, match=message):
        test.scene(0)


@pytest.mark.parametrize("name", ["scannetv2_val.txt", "scannetv2_train.txt"])
def test_a_missing_list_is_named(tmp_path, name):
    (write_release(tmp_path) / name).unlink()
    with pytest.raises(NotFoundError, match=rf"{name}: no such file.*authors' page"):
        load_scannet(tmp_path)


@pytest.mark.parametrize("ending", ["ply", "labels.ply"])
def test_a_missing_file_of_a_listed_room_is_named(tmp_path, ending):
    path = write_release(tmp_path) / "scans" / "scene0000_00" / f"scene0000_00_vh_clean_2.{ending}"
    path.unlink()
    with pytest.raises(NotFoundError, match=rf"{path}: no such file\. scannetv2_train\.txt names scene0000_00"):
        load_scannet(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("\n", r"has 0"), ("scene0000_00\n" * 2, r"has 2, twice \['scene0000_00'\]")])
def test_a_list_without_names_or_with_one_twice_is_refused(tmp_path, text, message):
    (write_release(tmp_path) / "scannetv2_train.txt").write_text(text)
    with pytest.raises(InvalidInputError, match=rf"scannetv2_train\.txt: .*{message}"):
        load_scannet(tmp_path)


@pytest.mark.parametrize("name", [".", "none"])
def test_a_folder_with_nothing_of_it_says_where_it_is_available(tmp_path, name):
    with pytest.raises(NotFoundError, match="authors' page"):
        load_scannet(tmp_path / name)
