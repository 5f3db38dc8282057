"""Each fault of a file is named, with the file; nothing in one is run."""

from __future__ import annotations

import pickle
import sys
import warnings

import laspy
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files import formats
from i2p_zoo.data.files.cloud_files import SUFFIXES, read_cloud
from i2p_zoo.errors import MissingExtraError, NotFoundError
from tests.data.files.example_files import (
    MESHES,
    NORMALS,
    POINTS,
    QUADS,
    RGB,
    VERTICES,
    columns,
    las,
    obj,
    off,
    ply,
    save,
    write,
)


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
