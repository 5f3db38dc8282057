"""S3DIS in files of both layouts: classes by file name, the release's damaged lines, the cache, and every fault by name."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.sets import s3dis
from i2p_zoo.data.sets.s3dis import CLASSES, load_s3dis
from i2p_zoo.errors import NotFoundError

CACHE = "i2p-zoo-points.npz"
LINE = b"-22.018 6.824 0.048 185 187 182"
VALUES = (-22.018, 6.824, 0.048, 185, 187, 182)


def write_room(folder, area=5, room="hallway_6", **objects):
    """A room of the raw release; an object is given as the content of its file."""
    annotations = folder / f"Area_{area}" / room / "Annotations"
    annotations.mkdir(parents=True)
    (annotations.parent / f"{room}.txt").write_bytes(b"the whole room, which nobody needs")
    for name, content in (objects or {"wall_1": LINE}).items():
        (annotations / f"{name}.txt").write_bytes(content)
    return annotations


def write_release(folder, **objects):
    """A release of one room an area, and another in Area 5 with the given objects."""
    for area in range(1, 7):
        write_room(folder, area, "office_1")
        (folder / f"Area_{area}" / f"Area_{area}_alignmentAngle.txt").write_text("## angle\n")
    if objects:
        write_room(folder, **objects)
    return folder


def load_room(folder, **objects):
    """Reads the room with the given objects by itself."""
    return load_s3dis(write_release(folder, **objects))[1].scene(0)


def test_the_official_classes_are_these():
    assert len(CLASSES) == 13
    assert (CLASSES[0], CLASSES[5], CLASSES[12]) == ("ceiling", "window", "clutter")


def test_rooms_are_listed_by_area(tmp_path):
    write_room(tmp_path, 1, "conferenceRoom_2")
    write_room(tmp_path, 5, "WC_1")
    train, test = load_s3dis(str(write_release(tmp_path)))
    assert train.names == ("Area_1/conferenceRoom_2", *(f"Area_{area}/office_1" for area in (1, 2, 3, 4, 6)))
    assert test.names == ("Area_5/WC_1", "Area_5/office_1")
    assert train.classes == test.classes == CLASSES
    assert load_s3dis(tmp_path, test_area=1)[1].names == ("Area_1/conferenceRoom_2", "Area_1/office_1")


def test_objects_are_joined_with_the_class_of_their_file_name(tmp_path):
    objects = {
        "bookcase_1": b"1 2 3 10 20 30\n4 5 6 11 21 31\n",
        "ceiling_12": b"7.5 -8.25 9 0 255 128.000\r\n\r\n",
        "clutter_1": LINE,
        "stairs_1": LINE,
        ".DS_Store": b"\0\1\2",
        "._wall_1": b"\0\5\26\7",
    }
    scene = load_room(tmp_path, **objects)
    assert scene["labels"].tolist() == [10, 10, 0, 12, 12]
    assert np.array_equal(scene["points"], np.float32([(1, 2, 3), (4, 5, 6), (7.5, -8.25, 9), VALUES[:3], VALUES[:3]]))
    assert scene["rgb"][:3].tolist() == [[10, 20, 30], [11, 21, 31], [0, 255, 128]]
    assert scene.keys() == {"points", "labels", "rgb"}


# As users of the release quote them: in one a space, in others a digit has lost a bit.
DAMAGED = {
    "hallway_6": (b"22.350 6.692 3.048 185.0\x10187.000 182", (22.35, 6.692, 3.048, 185, 187, 182)),
    "a digit behind a point": (b"-9.1 -3.2 3.1 103.0\x100000 104 105", (-9.1, -3.2, 3.1, 103, 104, 105)),
    "a digit of a coordinate": (b"-9.1\x160 2.5 1.5 10 20 30", (-9.16, 2.5, 1.5, 10, 20, 30)),
    "a null between": (b"1 2 3 185\x00187 182", (1, 2, 3, 185, 187, 182)),
    "a control between": (b"1 2 3 185\x10187 182", (1, 2, 3, 185, 187, 182)),
    "a delete between": (b"1 2 3\x7f185 187 182", (1, 2, 3, 185, 187, 182)),
    "a separator of files": (b"1 2 3\x1c185 187 182", (1, 2, 3, 185, 187, 182)),
}


@pytest.mark.parametrize(("line", "values"), DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_a_line_with_a_control_character_is_read(tmp_path, line, values, end):
    scene = load_room(tmp_path, ceiling_1=end.join([LINE, line, LINE, b""]))
    expected = np.array([VALUES, values, VALUES])
    assert np.array_equal(scene["points"], expected[:, :3].astype(np.float32))
    assert scene["rgb"].tolist() == expected[:, 3:].tolist()


MALFORMED = {
    "a word": b"1 2 3 10 x 30",
    "a word in place of a number": b"1 2 3 10 nan 30",
    "infinite": b"inf 2 3 10 20 30",
    "a coordinate of its own": b"1e39 2 3 10 20 30",
    "beyond all numbers": b"1e999 2 3 10 20 30",
    "five numbers": b"1 2 3 10 20",
    "seven numbers": b"1 2 3 10 20 30 40",
    "two points in one number": b"1 2 3.1.4 10 20 30",
    "an underscore": b"1_0 2 3 10 20 30",
    "commas": b"1,2,3,10,20,30",
    "a comment": b"# 1 2 3 10 20 30",
    "a bright colour": b"1 2 3 256 20 30",
    "a dark colour": b"1 2 3 10 -1 30",
    "a control and a word": b"1 2 3 10\x1020 x",
    "a control and too few": b"1 2 3\x1010 20",
    "a letter of another set": b"1 2 3 10\xe920 30",
    "a null in a row of them": b"\0" * 40,
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_whatever_else_is_malformed_is_named_by_file_and_line(tmp_path, line):
    with pytest.raises(InvalidInputError, match=r"Area_5/hallway_6/Annotations/ceiling_1\.txt: line 4 is ") as caught:
        load_room(tmp_path, ceiling_1=b"\n".join([LINE, b"", LINE, line, LINE]), wall_1=LINE)
    assert repr(line[:80].decode("latin-1")) in str(caught.value)
    assert not (tmp_path / "Area_5" / "hallway_6" / CACHE).exists()


@pytest.mark.parametrize("lines", [1, 3])
def test_a_file_of_another_width_is_named_by_its_first_line(tmp_path, lines):
    with pytest.raises(InvalidInputError, match=r"ceiling_1\.txt: line 1 is '1 2 3'"):
        load_room(tmp_path, ceiling_1=b"1 2 3\n" * lines)


def test_a_file_that_is_cut_short_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"ceiling_1\.txt: line 2 is '-22.018 6.824 0.0'"):
        load_room(tmp_path, ceiling_1=LINE + b"\n" + LINE[:17])


@pytest.mark.parametrize("content", [b"", b"\n \r\n"])
def test_an_empty_object_is_named(tmp_path, content):
    with pytest.raises(InvalidInputError, match=r"ceiling_1\.txt: the file is empty"):
        load_room(tmp_path, ceiling_1=content)


# The cache.


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name], second[name])


def test_the_second_time_the_cache_alone_is_read(tmp_path, monkeypatch):
    first = load_room(tmp_path, ceiling_1=LINE, table_1=LINE)
    room = tmp_path / "Area_5" / "hallway_6"
    assert sorted(path.name for path in room.iterdir()) == ["Annotations", "hallway_6.txt", CACHE]
    monkeypatch.setattr(s3dis, "_read_object", None)
    again = load_s3dis(tmp_path)[1].scene(0)
    assert_same(first, again)
    assert again["labels"].tolist() == [0, 7]


@pytest.mark.parametrize("change", ["text", "time", "another object", "damaged", "empty", "foreign"])
def test_a_cache_of_other_files_or_a_damaged_one_is_made_anew(tmp_path, change):
    old = load_room(tmp_path, ceiling_1=LINE, table_1=LINE)
    room = tmp_path / "Area_5" / "hallway_6"
    table, cache = room / "Annotations" / "table_1.txt", room / CACHE
    if change == "text":
        table.write_bytes(LINE + b"\n" + LINE)
    elif change == "time":  # of a file whose size stays
        table.write_bytes(LINE.replace(b"182", b"181"))
        os.utime(table, ns=(0, 0))
    elif change == "another object":
        table.rename(table.with_name("chair_1.txt"))
    elif change == "foreign":
        np.savez(cache, points=np.zeros(3))
    else:
        cache.write_bytes(cache.read_bytes()[:-100] if change == "damaged" else b"")
    new = load_s3dis(tmp_path)[1].scene(0)
    if change in ("damaged", "empty", "foreign"):
        assert_same(old, new)
    else:
        expected = {"text": ([0, 7, 7], 182), "time": ([0, 7], 181), "another object": ([0, 8], 182)}[change]
        assert (new["labels"].tolist(), new["rgb"][-1, 2]) == expected
    assert_same(new, load_s3dis(tmp_path)[1].scene(0))


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr("i2p_zoo.staging.os.replace", fail)
        with pytest.warns(UserWarning, match=rf"hallway_6/{CACHE} cannot be written \(read-only\)"):
            first = load_room(tmp_path, ceiling_1=LINE)
    assert not list(tmp_path.rglob("*.npz")) + list(tmp_path.rglob("*.partial"))
    assert_same(first, load_s3dis(tmp_path)[1].scene(0))


# Arrays.


def write_arrays(folder, array=None):
    folder.mkdir(exist_ok=True)
    for area in range(1, 7):
        np.save(folder / f"Area_{area}_conferenceRoom_1.npy", np.array([[*VALUES, area]]))
    if array is not None:
        np.save(folder / "Area_5_WC_1.npy", array)
    return folder


ROWS = np.array([[1.5, 2, 3, 10, 20, 30, 0], [4, 5, 6, 255, 0, 31, 12]])


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_arrays_are_read_by_column(tmp_path, kind):
    train, test = load_s3dis(write_arrays(tmp_path, ROWS.astype(kind)))
    assert train.names == tuple(f"Area_{area}/conferenceRoom_1" for area in (1, 2, 3, 4, 6))
    assert test.names == ("Area_5/WC_1", "Area_5/conferenceRoom_1")
    scene = test.scene(0)
    assert np.array_equal(scene["points"], ROWS[:, :3].astype(np.float32))
    assert (scene["rgb"].tolist(), scene["labels"].tolist()) == ([[10, 20, 30], [255, 0, 31]], [0, 12])
    assert train.scene(3)["labels"].tolist() == [4]


def test_fractions_of_an_array_are_scaled_to_bytes(tmp_path):
    rows = ROWS.copy()
    rows[:, 3:6] /= 255
    scene = load_s3dis(write_arrays(tmp_path, rows))[1].scene(0)
    assert scene["rgb"].tolist() == [[10, 20, 30], [255, 0, 31]]


def changed(column, value):
    rows = ROWS.copy()
    rows[1, column] = value
    return rows


FAULTY = {
    "six columns": (ROWS[:, :6], r"\(N, 7\).*found float64 \(2, 6\)"),
    "flat": (ROWS[0], r"found float64 \(7,\)"),
    "text": (ROWS.astype(str), r"found <U32"),
    "nan": (changed(0, np.nan), r"row 1 is \[nan, 5.0"),
    "a bright colour": (changed(3, 256), r"row 1 is .*256.0.*r g b of 0 to 255"),
    "a class beyond": (changed(6, 13), r"row 1 is .*13.0\]; .*a class of 0 to 12"),
    "half a class": (changed(6, 1.5), r"row 1 is .*1.5\]"),
    "no class": (changed(6, np.nan), r"row 1 is .*nan\]"),
}


@pytest.mark.parametrize(("array", "message"), FAULTY.values(), ids=FAULTY)
def test_an_array_that_does_not_fit_is_named_with_its_row(tmp_path, array, message):
    with pytest.raises(InvalidInputError, match=rf"Area_5_WC_1\.npy cannot be read: .*{message}"):
        load_s3dis(write_arrays(tmp_path, array))[1].scene(0)


def test_arrays_that_are_pickled_or_cut_short_are_named(tmp_path):
    path = write_arrays(tmp_path, ROWS) / "Area_5_WC_1.npy"
    test = load_s3dis(tmp_path)[1]
    for content in (pickle.dumps(ROWS), path.read_bytes()[:-8], b""):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"Area_5_WC_1\.npy cannot be read"):
            test.scene(0)


def test_an_array_without_a_point_is_refused_by_the_name_of_its_room(tmp_path):
    with pytest.raises(InvalidInputError, match=r"Scene 'Area_5/WC_1'.*at least one"):
        load_s3dis(write_arrays(tmp_path, ROWS[:0]))[1].scene(0)


# What is missing.


def test_a_missing_area_is_named(tmp_path):
    for folder, write in ((tmp_path / "raw", write_room), (tmp_path / "arrays", None)):
        for area in (1, 2, 4, 5):
            if write:
                write(folder, area)
            else:
                folder.mkdir(exist_ok=True)
                np.save(folder / f"Area_{area}_office_1.npy", ROWS)
        with pytest.raises(NotFoundError, match=r"no rooms of Area_3, Area_6\. .*building parser"):
            load_s3dis(folder)


@pytest.mark.parametrize("name", [".", "none"])
def test_a_folder_with_nothing_of_it_says_where_it_is_available(tmp_path, name):
    with pytest.raises(NotFoundError, match=r"building parser; give the folder Stanford3dDataset_v1\.2_Aligned_Version"):
        load_s3dis(tmp_path / name)


@pytest.mark.parametrize("area", [0, 7, "5"])
def test_another_test_area_is_refused(tmp_path, area):
    with pytest.raises(InvalidInputError, match=f"one of 1, 2, 3, 4, 5, 6; got {area}"):
        load_s3dis(write_release(tmp_path), test_area=area)


def test_a_room_without_annotations_is_named(tmp_path):
    write_release(tmp_path)
    (tmp_path / "Area_2" / "office_2").mkdir()
    with pytest.raises(InvalidInputError, match=r"Area_2/office_2: it has no folder Annotations"):
        load_s3dis(tmp_path)
    (tmp_path / "Area_2" / "office_2" / "Annotations").mkdir()
    with pytest.raises(InvalidInputError, match=r"office_2/Annotations: no files such as ceiling_1\.txt"):
        load_s3dis(tmp_path)[0].scene(2)


def test_sets_can_go_to_other_processes(tmp_path):
    test = pickle.loads(pickle.dumps(load_s3dis(write_release(tmp_path))[1]))
    assert test.scene(0)["labels"].tolist() == [2]
