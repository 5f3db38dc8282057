"""ModelNet40 in files of both official layouts: order, labels, the cache of sampled meshes, and every fault by name."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import load_npz, objects
from i2p_zoo.data.sets import modelnet40
from i2p_zoo.data.sets.modelnet40 import CLASSES, load_modelnet40
from i2p_zoo.errors import MissingExtraError, NotFoundError

BOX = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
FACES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6)]
CACHE = "i2p-zoo-2048-points.npz"


def clouds(count, seed, **changes):
    """Arrays of an HDF5 file as PointNet wrote them; those given as None are left out."""
    random = np.random.default_rng(seed)
    points = random.uniform(-0.5, 0.5, (count, 2048, 3)).astype(np.float32)
    labels = random.integers(0, 40, (count, 1), dtype=np.uint8)
    return {"data": points, "label": labels, "normal": points * 2, "faceId": labels, **changes}


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array


PARTS = {"train0": clouds(3, 0), "train1": clouds(2, 1), "test0": clouds(2, 2), "test1": clouds(1, 3)}


def write_release(folder, listings=True, names=True, **parts):
    folder.mkdir(exist_ok=True)
    for part, arrays in {**PARTS, **parts}.items():
        write_hdf5(folder / f"ply_data_{part}.h5", arrays)
    for split in ("train", "test"):
        lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_{split}{number}.h5" for number in range(2)]
        if listings:
            (folder / f"{split}_files.txt").write_text("\n".join([*lines, ""]))
    if names:
        (folder / "shape_names.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.fixture(autouse=True)
def small_release(monkeypatch):
    """The counts of the files that these tests write, in place of the official ones."""
    monkeypatch.setattr(modelnet40, "HDF5_COUNTS", (5, 3))
    monkeypatch.setattr(modelnet40, "MESH_COUNTS", (6, 2))


def test_official_classes_and_counts_are_these(monkeypatch):
    monkeypatch.undo()
    assert len(set(CLASSES)) == 40
    assert list(CLASSES) == sorted(CLASSES)
    assert modelnet40.HDF5_COUNTS == (9840, 2468)
    assert modelnet40.MESH_COUNTS == (9843, 2468)


@pytest.mark.parametrize("listings", [True, False], ids=["listed", "globbed"])
@pytest.mark.parametrize("names", [True, False], ids=["named", "nameless"])
def test_hdf5_parts_are_joined_in_order(tmp_path, listings, names):
    train, test = load_modelnet40(str(write_release(tmp_path / "m", listings, names)))
    for found, parts in ((train, ("train0", "train1")), (test, ("test0", "test1"))):
        expected = {name: np.concatenate([PARTS[part][name] for part in parts]) for name in ("data", "label", "normal")}
        assert found.classes == CLASSES
        assert np.array_equal(found.points, expected["data"])
        assert np.array_equal(found.normals, expected["normal"])
        assert found.labels.tolist() == expected["label"].ravel().tolist()
        assert (found.points.dtype, found.normals.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)


def test_the_listing_gives_the_order(tmp_path):
    folder = write_release(tmp_path / "m")
    (folder / "train_files.txt").write_text("ply_data_train1.h5\nply_data_train0.h5\n")
    train, _ = load_modelnet40(folder)
    assert np.array_equal(train.points[:2], PARTS["train1"]["data"])


def test_own_class_names_are_taken(tmp_path):
    folder = write_release(tmp_path / "m")
    (folder / "shape_names.txt").write_text("\r\n".join(f"kind{number}" for number in range(40)))
    assert load_modelnet40(folder)[1].classes[39] == "kind39"


def test_normals_need_every_part_and_labels_need_no_column(tmp_path):
    bare = clouds(2, 1, normal=None, label=np.array([39, 0]), data=PARTS["train1"]["data"].astype(np.float64))
    train, test = load_modelnet40(write_release(tmp_path / "m", train1=bare))
    assert train.normals is None
    assert test.normals is not None
    assert train.labels[3:].tolist() == [39, 0]
    assert train.points.dtype == np.float32


def with_nan(array):
    changed = array.copy()
    changed[1, 5, 2] = np.nan
    return changed


MALFORMED = {
    "no data": ({"data": None}, r"lacks the arrays \['data'\]"),
    "no label": ({"label": None}, r"lacks the arrays \['label'\].*'normal'"),
    "a label beyond": ({"label": np.array([[3], [40]], np.uint8)}, "0 to 39; found 3 to 40"),
    "a negative label": ({"label": np.array([[-1], [4]])}, "found -1 to 4"),
    "fractional labels": ({"label": np.array([[0.5], [4]])}, "integers"),
    "too few labels": ({"label": np.zeros((1, 1), int)}, r"\(2, 2048, 3\), \(1, 1\)"),
    "labels in a row": ({"label": np.zeros((1, 2), int)}, r"\(1, 2\)"),
    "fewer points": ({"data": np.zeros((2, 1024, 3))}, r"\(M, 2048, 3\).*\(2, 1024, 3\)"),
    "two columns": ({"data": np.zeros((2, 2048, 2))}, r"\(2, 2048, 2\)"),
    "flat data": ({"data": np.zeros(2)}, r"found \(2,\)"),
    "no clouds": ({"data": np.zeros((0, 2048, 3)), "label": np.zeros((0, 1), int)}, r"\(0, 2048, 3\)"),
    "whole numbers": ({"data": np.zeros((2, 2048, 3), int)}, "points must be floats.*int64"),
    "nan": ({"data": with_nan(PARTS["train1"]["data"])}, "points of cloud 1 have values that are NaN"),
    "nan normals": ({"normal": with_nan(PARTS["train1"]["data"])}, "normals of cloud 1"),
    "short normals": ({"normal": np.zeros((1, 2048, 3))}, r"normals must be floats \(2, 2048, 3\)"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_arrays_that_do_not_fit_are_refused_by_file_and_fault(tmp_path, changes, message):
    folder = write_release(tmp_path / "m", train1=clouds(2, 1, **changes))
    with pytest.raises(InvalidInputError, match=rf"(?s)ply_data_train1\.h5.*{message}"):
        load_modelnet40(folder, check=False)


@pytest.mark.parametrize("keep", [0, 100, 0.5], ids=["empty", "a header", "half"])
def test_a_file_that_is_cut_short_is_named(tmp_path, keep):
    path = write_release(tmp_path / "m") / "ply_data_test0.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(InvalidInputError, match=r"ply_data_test0\.h5 cannot be read"):
        load_modelnet40(tmp_path / "m")


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    (write_release(tmp_path / "m") / "ply_data_train1.h5").unlink()
    with pytest.raises(NotFoundError, match=r"ply_data_train1\.h5"):
        load_modelnet40(tmp_path / "m")


def test_a_split_without_files_is_missing(tmp_path):
    folder = write_release(tmp_path / "m", listings=False)
    for path in folder.glob("ply_data_test*"):
        path.unlink()
    with pytest.raises(NotFoundError, match=r"ply_data_test0\.h5.*PointNet's modelnet40_ply_hdf5_2048"):
        load_modelnet40(folder)


def test_too_few_class_names_are_refused(tmp_path):
    (write_release(tmp_path / "m") / "shape_names.txt").write_text("airplane\nbathtub\n")
    with pytest.raises(InvalidInputError, match=r"shape_names\.txt.*40 classes; found 2"):
        load_modelnet40(tmp_path / "m")


def test_another_count_is_refused_unless_the_check_is_off(tmp_path):
    folder = write_release(tmp_path / "m", train1=clouds(1, 1))
    with pytest.raises(InvalidInputError, match=r"expected 5 training and 3 test clouds.*found 4 and 3.*check=False"):
        load_modelnet40(folder)
    assert [len(split) for split in load_modelnet40(folder, check=False)] == [4, 3]


def test_missing_h5py_is_named_with_its_extra(tmp_path, monkeypatch):
    folder = write_release(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"`h5py`.*i2p-zoo\[data\]"):
        load_modelnet40(folder)


def test_folders_with_nothing_of_it_say_where_it_is_available(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFoundError, match=r"PointNet's modelnet40_ply_hdf5_2048.*Princeton"):
            load_modelnet40(folder)


def off(extents, header="OFF\n8 8 0"):
    rows = [" ".join(str(c * e) for c, e in zip(corner, extents, strict=True)) for corner in BOX]
    return "\n".join([header, *rows, *("3 {} {} {}".format(*face) for face in FACES), ""])


def write_meshes(folder):
    """Boxes that are longer the higher their number, half of them with the header that many official files have."""
    number = 0
    for name in ("airplane", "night_stand", "xbox"):
        for split, count in (("train", 2), ("test", 1 if name != "airplane" else 0)):
            (folder / name / split).mkdir(parents=True)
            for instance in range(count):
                number += 1
                path = folder / name / split / f"{name}_{instance + (split == 'test') * 100:04d}.off"
                path.write_text(off((number, 1, 1), "OFF8 8 0" if number % 2 else "OFF\n8 8 0"))
    (folder / "README.txt").write_text("ModelNet")
    return folder


def test_meshes_are_sampled_normalised_and_in_the_order_of_classes(tmp_path):
    train, test = load_modelnet40(write_meshes(tmp_path))
    assert train.labels.tolist() == [CLASSES.index(name) for name in ("airplane", "night_stand", "xbox") for _ in range(2)]
    assert test.labels.tolist() == [CLASSES.index("night_stand"), CLASSES.index("xbox")]
    assert train.classes == CLASSES
    for found in (train, test):
        assert found.points.shape == found.normals.shape == (len(found), 2048, 3)
        assert found.points.dtype == np.float32
        assert np.allclose(np.linalg.norm(found.points, axis=2).max(1), 1, atol=1e-6)
        assert np.allclose(found.points.mean(1), 0, atol=1e-6)
        assert np.allclose(np.linalg.norm(found.normals, axis=2), 1, atol=1e-5)
    extents = np.ptp(np.concatenate([train.points, test.points]), axis=1)
    lengths = np.round(extents[:, 0] / extents[:, 1], 1)
    assert np.allclose(lengths, [1, 2, 3, 4, 6, 7, 5, 8], atol=0.15), "each cloud is of its own mesh"


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.classes == b.classes
        for name in ("points", "normals", "labels"):
            assert getattr(a, name).dtype == getattr(b, name).dtype
            assert np.array_equal(getattr(a, name), getattr(b, name))


def test_sampling_is_the_same_each_time(tmp_path):
    write_meshes(tmp_path)
    first = load_modelnet40(tmp_path)
    (tmp_path / CACHE).unlink()
    assert_same(first, load_modelnet40(tmp_path))


def test_the_second_run_reads_the_cache_alone(tmp_path, monkeypatch):
    first = load_modelnet40(write_meshes(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()].count(CACHE) == 1
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*"))
    monkeypatch.setattr(objects, "read_with_losses", None)
    assert_same(first, load_modelnet40(tmp_path))
    assert_same(first, load_npz(tmp_path / CACHE))


@pytest.mark.parametrize("change", ["a changed mesh", "another name", "a damaged cache", "an empty cache", "a foreign cache"])
def test_a_cache_of_other_meshes_or_a_damaged_one_is_made_anew(tmp_path, change):
    old = load_modelnet40(write_meshes(tmp_path))
    mesh, cache = tmp_path / "xbox" / "train" / "xbox_0001.off", tmp_path / CACHE
    if change == "a changed mesh":
        mesh.write_text(off((1, 1, 50)))
    elif change == "another name":
        mesh.rename(mesh.with_name("xbox_0002.off"))
    elif change == "a foreign cache":
        np.savez(cache, points=np.zeros(3))
    else:
        cache.write_bytes(cache.read_bytes()[:-2000] if change == "a damaged cache" else b"")
    new = load_modelnet40(tmp_path)
    if "cache" in change:
        assert_same(old, new)
    else:
        assert not np.array_equal(old[0].points[5], new[0].points[5])
        assert np.array_equal(old[0].points[:5], new[0].points[:5])
    assert_same(new, load_npz(cache))


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError("read-only")

    write_meshes(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("i2p_zoo.staging.os.replace", fail)
        with pytest.warns(UserWarning, match=rf"{CACHE} cannot be written \(read-only\)"):
            first = load_modelnet40(tmp_path)
    assert not list(tmp_path.glob("*.npz")) + list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*"))
    assert_same(first, load_modelnet40(tmp_path))


def test_another_count_of_meshes_is_refused_before_any_is_read(tmp_path, monkeypatch):
    (write_meshes(tmp_path) / "airplane" / "train" / "airplane_0000.off").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(objects, "read_with_losses", None)
        with pytest.raises(InvalidInputError, match=r"expected 6 .* 2 .*found 5 and 2"):
            load_modelnet40(tmp_path)
    assert [len(split) for split in load_modelnet40(tmp_path, check=False)] == [5, 2]


@pytest.mark.parametrize("content", ["", "OFF\n0 0 0\n", off((0, 0, 0)), off((1, 1, 1))[:-4]], ids=["", "no", "flat", "cut"])
def test_a_faulty_mesh_in_the_middle_is_named_and_nothing_kept(tmp_path, content):
    (write_meshes(tmp_path) / "night_stand" / "train" / "night_stand_0001.off").write_text(content)
    with pytest.raises(InvalidInputError, match=r"night_stand_0001\.off (cannot be read|is empty)"):
        load_modelnet40(tmp_path)
    assert not (tmp_path / CACHE).exists()
