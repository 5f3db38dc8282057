"""Folders of files: the layouts, the division by a hash, normalisation, and every fault by name."""

from __future__ import annotations

import json
import os
import pathlib
import string
import sys

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.objects import hash_name
from i2p_zoo.data.sets.folders import load_folder, load_unlabelled
from i2p_zoo.errors import NotFoundError

TRIANGLES = "OFF\n4 2 0\n0 0 {z}\n2 0 {z}\n2 1 {z}\n0 1 {z}\n3 0 1 2\n3 0 2 3\n"


def write_cloud(path, count=5, offset=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(count).normal(size=(count, 3)) * 4 + offset)


def write_mesh(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TRIANGLES.format(z=7))


def write_layout(folder, layout):
    """Two clouds to train on and one to test on of each of two classes, whose numbers of points tell them apart."""
    for label, name in enumerate(("cat", "dog")):
        for number, split in enumerate(("train", "train", "test")):
            place = folder / (f"{name}/{split}" if layout == "CLASS/split" else f"{split}/{name}")
            write_cloud(place / f"{number}.npy", 10 * label + number + 3)
    return folder


@pytest.mark.parametrize("layout", ["CLASS/split", "split/CLASS"])
def test_splits_are_read_from_either_layout(tmp_path, layout):
    train, test = load_folder(str(write_layout(tmp_path, layout)))
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert train.labels.dtype == np.int64
    assert [len(points) for points in train.points] == [3, 4, 13, 14]
    assert [len(points) for points in test.points] == [5, 15]


def names_of_test(folder, names):
    """Which of the files of one class are in the test split: each cloud's number of points tells its file."""
    _, test = load_folder(folder)
    return {name for name, count in names.items() if count in {len(points) for points in test.points}}


def test_a_plain_layout_is_divided_four_to_one_and_stays_so_when_files_are_added(tmp_path):
    names = {f"scan {number}.npy": number + 1 for number in range(250)}
    for name, count in names.items():
        write_cloud(tmp_path / "cat" / name, count)
    before = names_of_test(tmp_path, names)
    assert abs(len(before) - 50) < 4.5 * np.sqrt(250 * 0.16)
    for name in ("a new one.npy", "scan 0b.npy"):
        write_cloud(tmp_path / "cat" / name, 300)
    assert names_of_test(tmp_path, names) == before


# The names of a to z whose SHA-256, its first eight bytes as a number, is divisible by five.
EXPECTED_TEST = {"e.npy", "t.npy", "u.npy", "y.npy"}


def test_the_division_is_this_one_on_every_machine(tmp_path):
    names = {f"{letter}.npy": number + 1 for number, letter in enumerate(string.ascii_lowercase)}
    for name, count in names.items():
        write_cloud(tmp_path / "cat" / name, count)
    assert names_of_test(tmp_path, names) == EXPECTED_TEST


def test_each_object_is_centred_and_scaled_to_the_unit_sphere(tmp_path):
    write_cloud(tmp_path / "train" / "a" / "cloud.npy", 50)
    write_cloud(tmp_path / "test" / "a" / "cloud.npy", 1)
    write_mesh(tmp_path / "train" / "a" / "mesh.off")
    with pytest.warns(UserWarning, match="2 of 3 files have no normals"):
        train, test = load_folder(tmp_path, points=100)
    assert [len(points) for points in train.points] == [50, 100]
    for points in train.points:
        assert points.dtype == np.float32
        assert np.allclose(points.mean(0), 0, atol=1e-6)
        assert np.isclose(np.linalg.norm(points, axis=1).max(), 1, atol=1e-6)
    assert np.array_equal(test.points, np.zeros((1, 1, 3))), "a single point has no size to scale"


def test_large_clouds_are_drawn_down_and_equal_sizes_make_one_array(tmp_path):
    for split, counts in (("train", (500, 300)), ("test", (200, 100))):
        for count in counts:
            write_cloud(tmp_path / split / "a" / f"{count}.npy", count)
    train, test = load_folder(tmp_path, points=100)
    assert isinstance(train.points, np.ndarray)
    assert train.points.shape == test.points.shape == (2, 100, 3)
    assert all(len(np.unique(points, axis=0)) == 100 for points in train.points), "no point comes twice"


def test_the_draw_is_the_same_each_time(tmp_path):
    write_cloud(tmp_path / "train" / "a" / "1.npy", 500)
    write_mesh(tmp_path / "train" / "a" / "2.off")
    write_cloud(tmp_path / "test" / "a" / "3.npy", 100)
    with pytest.warns(UserWarning, match="2 of 3 files have no normals"):
        (first, _), (again, _) = load_folder(tmp_path, points=100), load_folder(tmp_path, points=100)
    assert np.array_equal(first.points, again.points)
    assert np.array_equal(first.normals or [], again.normals or [])


def test_normals_and_colours_come_where_every_file_has_them(tmp_path):
    rgb = np.arange(150, dtype=np.uint8).reshape(50, 3)
    points = np.random.default_rng(0).normal(size=(50, 3))
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        np.savez(tmp_path / split / "a" / "full.npz", points=points, normals=normals, rgb=rgb)
    for clouds in load_folder(tmp_path, points=20):
        # the same rows of each array
        rows = [int(colour[0]) // 3 for colour in clouds.rgb[0]]
        assert np.allclose(clouds.normals[0], normals[rows], atol=1e-6)
        unscaled = clouds.points[0] * np.linalg.norm(points[rows] - points[rows].mean(0), axis=1).max() + points[rows].mean(0)
        assert np.allclose(unscaled, points[rows], atol=1e-5)
    np.savez(tmp_path / "train" / "a" / "partial.npz", points=points, normals=normals)
    with pytest.warns(UserWarning, match=r"1 of 3 files have no rgb, such as .*train.a.partial\.npz\. The data set has none\."):
        splits = load_folder(tmp_path)
    for clouds in splits:
        assert clouds.rgb is None
        clouds.require_features("xyz,normals")
        with pytest.raises(InvalidInputError, match=r"The clouds have no rgb, .* need\. .*partial\.npz"):
            clouds.require_features("xyz,rgb")
        assert len(clouds.normals) == len(clouds)


def test_other_files_are_left_out_with_a_warning_and_hidden_ones_without(tmp_path):
    write_layout(tmp_path, "split/CLASS")
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.txt").write_text("about")
    assert [len(split) for split in load_folder(tmp_path)] == [4, 2]
    (tmp_path / "train" / "cat" / "paint.mtl").write_text("")
    with pytest.warns(UserWarning, match=r"1 files that are no clouds.*: 1 \.mtl, such as 'train/cat/paint\.mtl'"):
        assert [len(split) for split in load_folder(tmp_path)] == [4, 2]


@pytest.mark.parametrize("content", [b"", b"words\n", np.full(8, np.nan, np.float32).tobytes()], ids=["empty", "text", "nan"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    write_layout(tmp_path, "split/CLASS")
    (tmp_path / "train" / "dog" / "0.5.bin").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"train.dog.0\.5\.bin (cannot be read|is empty)"):
        load_folder(tmp_path)


def remove(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


BARE = {
    "an empty train folder of a class": ("CLASS/split", lambda folder: remove(folder, "dog/train/*"), r"\['dog'\]"),
    "a class to test on alone": ("split/CLASS", lambda folder: write_cloud(folder / "test" / "elk" / "a.npy"), r"\['elk'\]"),
    "an empty class": ("split/CLASS", lambda folder: (folder / "train" / "elk").mkdir(), r"\['elk'\]"),
    "nothing to train on": ("split/CLASS", lambda folder: remove(folder, "train/*/*"), r"\['cat', 'dog'\]"),
}


@pytest.mark.parametrize(("layout", "change", "message"), BARE.values(), ids=BARE)
def test_a_class_without_a_file_to_train_on_is_named(tmp_path, layout, change, message):
    change(write_layout(tmp_path, layout))
    with pytest.raises(InvalidInputError, match=f"no file to train on in the classes {message}"):
        load_folder(tmp_path)


def test_a_class_of_which_the_hash_leaves_nothing_to_train_on_is_named(tmp_path):
    write_cloud(tmp_path / "cat" / "a.npy")
    write_cloud(tmp_path / "dog" / min(EXPECTED_TEST))
    with pytest.raises(InvalidInputError, match=r"\['dog'\]"):
        load_folder(tmp_path)


STRANGE = {
    "train without test": (lambda folder: write_cloud(folder / "train" / "cat" / "a.npy"), "lacks \\['test'\\]"),
    "a class beside the splits": (
        lambda folder: (write_layout(folder, "split/CLASS"), write_cloud(folder / "elk" / "a.npy")),
        r"also has \['elk'\]",
    ),
    "a class without splits": (
        lambda folder: (write_layout(folder, "CLASS/split"), write_cloud(folder / "elk" / "a.npy")),
        "some classes are divided",
    ),
    "folders in a class": (
        lambda folder: (write_layout(folder, "CLASS/split"), write_cloud(folder / "dog" / "extra" / "a.npy")),
        r"dog.*'extra'",
    ),
    "files alone": (lambda folder: write_cloud(folder / "a.npy"), r"no class sub-folders.*CLASS/train, train/CLASS or CLASS"),
    "nothing": (lambda folder: None, "no class sub-folders"),
    "splits of nothing": (lambda folder: [(folder / split).mkdir() for split in ("train", "test")], "no class sub-folders"),
}


@pytest.mark.parametrize(("write", "message"), STRANGE.values(), ids=STRANGE)
def test_other_layouts_are_refused(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"none: no such folder\. .*sub-folder"):
        load_folder(tmp_path / "none")


def test_a_validation_split_is_not_trained_on_and_can_be_measured(tmp_path):
    write_layout(tmp_path, "split/CLASS")
    for name, count in (("cat", 30), ("dog", 40)):
        write_cloud(tmp_path / "val" / name / "a.npy", count)
    with pytest.warns(UserWarning, match=r"the val split of 2 files is not read; `test=val` measures on it"):
        train, test = load_folder(tmp_path)
    assert [len(points) for points in train.points] == [3, 4, 13, 14]
    assert [len(points) for points in test.points] == [5, 15]
    with pytest.warns(UserWarning, match="the test split of 2 files"):
        _, test = load_folder(tmp_path, test="val")
    assert [len(points) for points in test.points] == [30, 40]
    for path in sorted((tmp_path / "test").rglob("*.npy")):
        path.unlink()
    for name in ("cat", "dog", ""):
        (tmp_path / "test" / name).rmdir()
    (tmp_path / "val").rename(tmp_path / "validation")
    assert [len(points) for points in load_folder(tmp_path)[1].points] == [30, 40]
    with pytest.raises(InvalidInputError, match=r"test='test'; it has the splits \['train', 'val'\]"):
        load_folder(tmp_path, test="test")


def test_a_layout_of_shapenet_is_read_and_divided_by_the_models_names(tmp_path):
    expected = {"train": set(), "test": set()}
    for number in range(20):
        model = tmp_path / "02691156" / f"model{number}" / "models"
        write_cloud(model / "model_normalized.npy", number + 1)
        (model / "model_normalized.mtl").write_text("")
        split = "train" if hash_name(f"model{number}/models/model_normalized.npy") % 5 else "test"
        expected[split].add(number + 1)
    with pytest.warns(UserWarning, match=r"20 files that are no clouds.*20 \.mtl"):
        train, test = load_folder(tmp_path)
    assert {len(points) for points in train.points} == expected["train"]
    assert {len(points) for points in test.points} == expected["test"]
    assert expected["test"], "not every model has the split of one name"


@pytest.mark.parametrize("kind", ["ModelNet40", "ShapeNetPart"])
def test_a_data_sets_own_lists_divide_it(tmp_path, kind):
    rows = "1.0,2.0,3.0,0,0,1\n" if kind == "ModelNet40" else "1.0 2.0 3.0 0 0 1 12.0\n"
    classes = ("airplane", "night_stand") if kind == "ModelNet40" else ("02691156", "03001627")
    names = {"train": [], "test": []}
    for name in classes:
        (tmp_path / name).mkdir()
        for number in range(6):
            stem = f"{name}_{number:04d}" if kind == "ModelNet40" else f"{name[:4]}.{number}abc"
            (tmp_path / name / f"{stem}.txt").write_text(rows * (number + 1))
            names["train" if number < 4 else "test"].append(stem if kind == "ModelNet40" else f"shape_data/{name}/{stem}")
    (tmp_path / "filelist.txt").write_text("airplane/airplane_0001.txt\n")
    if kind == "ModelNet40":
        for split, listed in names.items():
            (tmp_path / f"modelnet40_{split}.txt").write_text("\n".join(listed))
    else:
        (tmp_path / "train_test_split").mkdir()
        for split, listed in names.items():
            (tmp_path / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(listed))
    train, test = load_folder(tmp_path)
    assert train.classes == classes
    assert [len(points) for points in train.points] == [1, 2, 3, 4] * 2
    assert [len(points) for points in test.points] == [5, 6] * 2
    assert train.normals[0].tolist() == [[0, 0, 1]]


def test_a_file_in_two_lists_is_refused_and_one_in_none_is_counted(tmp_path):
    for number in range(3):
        write_cloud(tmp_path / "cat" / f"{number}.npy", number + 1)
    (tmp_path / "train.txt").write_text("0\n")
    (tmp_path / "test.txt").write_text("1.npy\n")
    with pytest.warns(UserWarning, match=r"1 files.*1 \.npy, such as 'cat/2\.npy'"):
        train, test = load_folder(tmp_path)
    assert [len(points) for points in (*train.points, *test.points)] == [1, 2]
    (tmp_path / "test.txt").write_text("1\n0\n")
    with pytest.raises(
        InvalidInputError, match=r"'0' is of the train split here and of test in another list|'0' is of the test"
    ):
        load_folder(tmp_path)


def test_buffers_of_gltf_and_notes_are_left_out_and_counted(tmp_path):
    write_layout(tmp_path, "split/CLASS")
    place = tmp_path / "train" / "cat"
    np.zeros(24, np.float32).tofile(place / "scene.bin")
    scene = {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": "scene.bin", "byteLength": 96}],
        "bufferViews": [{"buffer": 0, "byteLength": 96}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}],
        "nodes": [{"mesh": 0}],
    }
    (place / "scene.gltf").write_text(json.dumps(scene))
    (place / "notes.txt").write_text("Chairs of our office.\n")
    write_cloud(tmp_path / "train" / "stray.npy")
    write_cloud(tmp_path / "stray.npy")
    left_out = {".bin": 1, ".txt": 1, ".npy": 2}
    with pytest.warns(UserWarning, match="files that are no clouds, or in no class, are left out") as caught:
        train, _ = load_folder(tmp_path)
    message = str(caught[0].message)
    assert all(f"{count} {ending}" in message for ending, count in left_out.items())
    assert len(train) == 5, "the four and the scene, whose buffer is no cloud of its own"


def test_binary_clouds_are_read_by_the_columns_that_are_said(tmp_path):
    rows = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        rows.tofile(tmp_path / split / "a" / "0.bin")
    with pytest.raises(InvalidInputError, match=r"0\.bin.*columns=4 \(KITTI"):
        load_folder(tmp_path)
    train, _ = load_folder(tmp_path, columns="x,y,z,nx,ny,nz")
    expected = rows[:, 3:] / np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    assert np.allclose(train.normals[0], expected, atol=1e-6)


def test_points_without_coordinates_are_summed_over_the_files(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for number in range(3):
            points = np.random.default_rng(number).normal(size=(20, 3))
            points[:number] = np.nan
            np.save(tmp_path / split / "a" / f"{number}.npy", points)
    with pytest.warns(
        UserWarning, match=r"4 of 6 files such as .*1\.npy: 6 points without coordinates \(NaN or infinite\) left out"
    ):
        train, _ = load_folder(tmp_path)
    assert [len(points) for points in train.points] == [20, 19, 18]


def test_a_folder_is_the_same_data_set_where_paths_are_sorted_without_case(tmp_path, monkeypatch):
    """As Windows sorts them: the clouds' order decides on batches, on few shots and on the set's fingerprint."""
    for number, name in enumerate(("Zebra/b.npy", "Zebra/A.npy", "ant/c.npy", "ant/B.npy")):
        write_cloud(tmp_path / "train" / name, number + 3)
        write_cloud(tmp_path / "test" / name, number + 3)
    expected, _ = load_folder(tmp_path)
    monkeypatch.setattr(pathlib.PurePath, "__lt__", lambda path, other: str(path).lower() < str(other).lower())
    again, _ = load_folder(tmp_path)
    assert expected.classes == again.classes == ("Zebra", "ant")
    assert [len(points) for points in again.points] == [len(points) for points in expected.points] == [4, 3, 6, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_whose_bytes_are_no_text_here_are_read(tmp_path, encoding):
    """Of an archive that was packed elsewhere."""
    for name in ("b\u00fcro", "haus"):
        for number in range(6):
            write_cloud(tmp_path / os.fsdecode(name.encode(encoding)) / os.fsdecode(f"{number}\u00e4.npy".encode(encoding)))
    train, test = load_folder(tmp_path)
    assert train.classes == test.classes == ("b\u00fcro", "haus")
    assert len(train) + len(test) == 12


def test_clouds_without_labels_are_read_at_any_depth_and_may_be_of_any_class(tmp_path):
    for place in ("a.npy", "one/b.npy", "one/two/c.npy"):
        write_cloud(tmp_path / place, 3 + len(place))
    (tmp_path / "notes.md").write_text("no cloud")
    with pytest.warns(UserWarning, match="1 files that are no clouds"):
        clouds = load_unlabelled(tmp_path, ("cat", "dog"))
    assert sorted(len(points) for points in clouds.points) == [8, 12, 16]
    assert (clouds.classes, clouds.normalization) == (("cat", "dog"), "unit_sphere")
    assert clouds.labels.tolist() == [[0.5, 0.5]] * 3
    assert all(np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-5) for points in clouds.points)


def test_a_folder_without_clouds_is_told(tmp_path):
    (tmp_path / "notes.md").write_text("no cloud")
    with pytest.raises(InvalidInputError, match="there is no file of"):
        load_unlabelled(tmp_path, ("cat",))
    with pytest.raises(NotFoundError):
        load_unlabelled(tmp_path / "none", ("cat",))
