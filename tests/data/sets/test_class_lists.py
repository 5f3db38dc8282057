"""Lists of classes: the lines that people write, the codes of LAS, and what is no class."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.sets.class_lists import list_own_codes, read_class_list
from i2p_zoo.errors import NotFoundError

WRITTEN = {
    "codes and names": ("2 ground\n6 building\n", {2: "ground", 6: "building"}),
    "other orders": ("6\tbuilding\n2\tground", {6: "building", 2: "ground"}),
    "commas": ("2,ground\r\n6, high building\r\n", {2: "ground", 6: "high building"}),
    "semicolons": ("2;ground\n6 ; building", {2: "ground", 6: "building"}),
    "yaml": ("2: ground\n6: building", {2: "ground", 6: "building"}),
    "a mark of byte order": ("\ufeff2 ground\n6 building", {2: "ground", 6: "building"}),
    "comments and empty lines": ("# of the city\n\n2 ground\n  \n6 building", {2: "ground", 6: "building"}),
    "names alone": ("ground\nbuilding", {0: "ground", 1: "building"}),
    "codes alone": ("2\n6", {2: "2", 6: "6"}),
    "names that begin with a number": ("wheels\n4wheels", {0: "wheels", 1: "4wheels"}),
    "a negative code": ("-1 dirt\n0 ground", {-1: "dirt", 0: "ground"}),
    "odd characters": ("0 $x^$\n1 _under & <b>\n2 Gebäude", {0: "$x^$", 1: "_under & <b>", 2: "Gebäude"}),
    "no class": ("0 Unlabeled\n1 ignored\n2 ground\n7 VOID", {0: None, 1: None, 2: "ground", 7: None}),
    "no class by its place": ("unlabelled\nground", {0: None, 1: "ground"}),
}


@pytest.mark.parametrize(("text", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_lines_are_read_as_they_are_written(tmp_path, text, expected):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    listed = read_class_list(tmp_path / "classes.txt")
    assert listed.class_of_code == expected
    assert list(listed.class_of_code) == list(expected), "in the order of the list"


def test_codes_of_one_name_are_one_class_and_no_class_is_ignored(tmp_path):
    (tmp_path / "classes.txt").write_text("6 building\n3 plants\n0 ignored\n4 plants\n5 plants\n")
    listed = read_class_list(tmp_path / "classes.txt")
    assert listed.names == ("building", "plants")
    assert listed.codes == (6, 3)
    labels, unknown = listed.to_labels(np.array([3, 4, 5, 6, 0, -1, 255]))
    assert labels.tolist() == [1, 1, 1, 0, -1, -1, -1]
    assert labels.dtype == np.int64
    assert unknown.tolist() == []
    assert listed.to_labels(np.array([9, 3, 2, 9, -2]))[1].tolist() == [-2, 2, 9]


def test_minus_one_and_255_are_classes_where_the_list_says_so(tmp_path):
    (tmp_path / "classes.txt").write_text("-1 dirt\n255 sky\n")
    labels, unknown = read_class_list(tmp_path / "classes.txt").to_labels(np.array([255, -1]))
    assert labels.tolist() == [1, 0]
    assert not len(unknown)


REFUSED = {
    "codes and none": ("2 ground\nbuilding", "'2 ground' and 'building' differ; give each a code, or none"),
    "a code twice": ("2 ground\n2 floor", "the code 2 stands twice, as 'ground' and 'floor'"),
    "nothing": ("", "no class"),
    "comments alone": ("# 2 ground", "no class"),
    "no class": ("0 ignored\n1 void", "no class but such names as ignored"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_list_is_refused_by_its_name(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InvalidInputError, match=rf"classes\.txt: .*{message}"):
        read_class_list(tmp_path / "classes.txt")


def test_a_missing_list_is_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.txt: no such file.*`2 ground`"):
        read_class_list(tmp_path / "none.txt")


def test_codes_of_las_have_its_names():
    listed = list_own_codes([9, 0, 64, 2, 1], True, "scans")
    assert listed.names == ("ground", "water", "class 64")
    assert listed.codes == (2, 9, 64)
    assert listed.to_labels(np.array([0, 1, 2, 64]))[0].tolist() == [-1, -1, 0, 2]


def test_other_codes_are_their_own_names():
    listed = list_own_codes([11, 0, 1, -1, 255, 2], False, "scans")
    assert listed.names == ("0", "1", "2", "11")
    assert listed.codes == (0, 1, 2, 11)
    with pytest.raises(InvalidInputError, match="scans: no class"):
        list_own_codes([-1, 255], False, "scans")
