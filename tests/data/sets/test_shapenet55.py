"""ShapeNet-55 in files of Point-BERT's layout: labels by synset, the draw of points, and every fault by name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import objects
from i2p_zoo.data.sets import shapenet55
from i2p_zoo.data.sets.shapenet55 import SYNSETS, load_shapenet55
from i2p_zoo.errors import NotFoundError

TRAIN = ["04554684-a.npy", "02691156-1a04e3eab45ca15dd86060f189eb133.npy", "03001627-b-c.npy"]
TEST = ["02691156-d.npy", "03337140-a.npy"]


def write_release(folder, count=8192):
    (folder / "shapenet_pc").mkdir(parents=True)
    (folder / "ShapeNet-55").mkdir()
    written = {}
    for number, name in enumerate([*TRAIN, *TEST]):
        points = np.random.default_rng(number).normal(size=(count, 3)) * (number + 1) + 5
        written[name] = points.astype(np.float32)
        np.save(folder / "shapenet_pc" / name, written[name])
    (folder / "ShapeNet-55" / "train.txt").write_text("\n".join(TRAIN))
    (folder / "ShapeNet-55" / "test.txt").write_text("\n".join(TEST) + "\n\n")
    return written


@pytest.fixture(autouse=True)
def small_release(monkeypatch):
    """The counts of the files that these tests write, in place of the official ones."""
    monkeypatch.setattr(shapenet55, "COUNTS", (3, 2))


def test_official_classes_and_counts_are_these(monkeypatch):
    monkeypatch.undo()
    assert len(SYNSETS) == len(set(SYNSETS.values())) == 55
    assert list(SYNSETS) == sorted(SYNSETS), "Point-BERT numbers the classes by their synsets' order"
    assert all(re.fullmatch(r"0\d{7}", synset) for synset in SYNSETS)
    assert shapenet55.COUNTS == (41952, 10518)


def test_labels_follow_the_synsets_and_the_lists_give_the_order(tmp_path):
    write_release(tmp_path)
    train, test = load_shapenet55(str(tmp_path))
    assert train.labels.tolist() == [54, 0, 18]
    assert test.labels.tolist() == [0, 25]
    assert (train.classes[0], train.classes[18], train.classes[25], train.classes[54]) == (
        "airplane",
        "chair",
        "file cabinet",
        "washer",
    )
    assert train.labels.dtype == np.int64


def test_points_are_drawn_once_each_from_all_of_the_file(tmp_path, monkeypatch):
    written = write_release(tmp_path)
    monkeypatch.setattr(objects, "to_unit_sphere", lambda points: points)
    for split, names in zip(load_shapenet55(tmp_path), (TRAIN, TEST), strict=True):
        for cloud, name in zip(split.points, names, strict=True):
            rows_of = {tuple(point): row for row, point in enumerate(written[name].tolist())}
            rows = [rows_of[tuple(point)] for point in cloud.tolist()]
            assert len(set(rows)) == 2048, "no point comes twice"
            quarters = np.bincount(np.array(rows) // 2048, minlength=4)
            assert np.abs(quarters - 512).max() < 4.5 * np.sqrt(2048 * 3 / 16), "no part of the file is preferred"


def test_clouds_are_centred_and_within_the_unit_sphere(tmp_path):
    write_release(tmp_path)
    for split in load_shapenet55(tmp_path):
        assert split.points.shape == (len(split), 2048, 3)
        assert split.points.dtype == np.float32
        assert np.allclose(split.points.mean(1), 0, atol=1e-6)
        assert np.allclose(np.linalg.norm(split.points, axis=2).max(1), 1, atol=1e-6)


def test_the_draw_is_the_same_each_time_and_another_for_each_file(tmp_path):
    write_release(tmp_path)
    for path in (tmp_path / "shapenet_pc").iterdir():
        np.save(path, np.arange(8192 * 3, dtype=np.float64).reshape(-1, 3))
    first, again = load_shapenet55(tmp_path)[0], load_shapenet55(tmp_path)[0]
    assert np.array_equal(first.points, again.points)
    assert not np.array_equal(first.points[0], first.points[1])


@pytest.mark.parametrize("points", [100, 8192])
def test_as_many_points_as_asked_for_are_kept(tmp_path, points):
    write_release(tmp_path)
    assert load_shapenet55(tmp_path, points)[1].points.shape == (2, points, 3)


MALFORMED = {
    "no points": np.zeros((0, 3)),
    "nan": np.full((8192, 3), np.nan),
    "two columns": np.zeros((8192, 2)),
    "words": np.full((8192, 3), "a"),
}


@pytest.mark.parametrize("array", MALFORMED.values(), ids=MALFORMED)
def test_a_faulty_cloud_in_the_middle_is_named(tmp_path, array):
    write_release(tmp_path, 10)
    np.save(tmp_path / "shapenet_pc" / TRAIN[1], array)
    with pytest.raises(InvalidInputError, match=f"{TRAIN[1]} cannot be read"):
        load_shapenet55(tmp_path)


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_a_cloud_that_is_cut_short_is_named(tmp_path, keep):
    write_release(tmp_path, 10)
    path = tmp_path / "shapenet_pc" / TEST[0]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInputError, match=f"{TEST[0]} (cannot be read|is empty)"):
        load_shapenet55(tmp_path)


@pytest.mark.parametrize("name", [TRAIN[2], TEST[1]])
def test_a_listed_cloud_that_is_missing_is_named(tmp_path, name):
    write_release(tmp_path, 10)
    (tmp_path / "shapenet_pc" / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_shapenet55(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_list_is_named(tmp_path, split):
    write_release(tmp_path, 10)
    (tmp_path / "ShapeNet-55" / f"{split}.txt").unlink()
    with pytest.raises(NotFoundError, match=rf"{split}\.txt.*Point-BERT"):
        load_shapenet55(tmp_path)


@pytest.mark.parametrize("line", "01234567-a.npy airplane.npy 02691156-a.txt ../02691156-a.npy 02691156-x/../a.npy".split())
def test_a_line_that_names_no_cloud_is_quoted(tmp_path, line):
    write_release(tmp_path, 10)
    (tmp_path / "ShapeNet-55" / "test.txt").write_text(f"{TEST[0]}\n{line}\n")
    with pytest.raises(InvalidInputError) as caught:
        load_shapenet55(tmp_path)
    assert f"test.txt: name 2 is {line!r}" in str(caught.value)


@pytest.mark.parametrize(("split", "counts"), [("train", [2, 2]), ("test", [3, 1])])
def test_another_count_is_refused_before_any_cloud_is_read(tmp_path, monkeypatch, split, counts):
    write_release(tmp_path, 10)
    path = tmp_path / "ShapeNet-55" / f"{split}.txt"
    path.write_text("\n".join(path.read_text().split()[:-1]))
    with monkeypatch.context() as patch:
        patch.setattr(objects, "read_with_losses", None)
        with pytest.raises(InvalidInputError, match="expected 3 .* 2 .*found {} and {}".format(*counts)):
            load_shapenet55(tmp_path)
    assert [len(split) for split in load_shapenet55(tmp_path, check=False)] == counts


def test_a_missing_folder_says_where_the_data_are_available(tmp_path):
    with pytest.raises(NotFoundError, match="Point-BERT's repository"):
        load_shapenet55(tmp_path / "none")
