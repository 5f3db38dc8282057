"""PCD files: what writers other than PCL's make of the format, written here by hand or by pypcd4."""

from __future__ import annotations

import struct

import numpy as np
import pypcd4
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.errors import MissingExtraError

HEADER = """VERSION .7
FIELDS {fields}
SIZE {sizes}
TYPE {types}
COUNT {counts}
WIDTH {n}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {n}
DATA ascii
"""


def header(fields="x y z", n=2):
    count = len(fields.split())
    lists = {"sizes": " ".join("4" * count), "types": " ".join("F" * count), "counts": " ".join("1" * count)}
    return HEADER.format(fields=fields, n=n, **lists)


def read(tmp_path, content, **options):
    path = tmp_path / "a.pcd"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_cloud(path, **options)


TEXTS = {
    "two spaces": header() + "72.250        -18.179        0.850\n68.269        -16.610        0.480\n",
    "tabs": header() + "72.25\t-18.179\t.85\n68.269\t-16.61\t0.48\n",
    "spaces at either end": header() + " 72.25 -18.179 .85 \n 68.269 -16.61 0.48 \n",
    "carriage returns": (header() + "72.25 -18.179 .85\n68.269 -16.61 0.48\n").replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + header() + "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "lower case": header().lower() + "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "upper case": header().replace("x y z", "X Y Z").replace("ascii", "ASCII") + "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "comments": "# .PCD v.7\n\n" + header().replace("WIDTH", "# w\nWIDTH") + "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "version 0.5": "# .PCD v.5\nVERSION .5\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nPOINTS 2\nDATA ascii\n"
    "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "columns of version 0.5": "COLUMNS x y z\nPOINTS 2\nDATA ascii\n72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "no count of points": header().replace("POINTS 2\n", "") + "72.25 -18.179 .85\n68.269 -16.61 0.48\n",
    "another order": header("z x y") + ".85 72.25 -18.179\n0.48 68.269 -16.61\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_other_writers_are_read(tmp_path, name):
    expected = np.array([[72.25, -18.179, 0.85], [68.269, -16.61, 0.48]], np.float32)
    assert np.array_equal(read(tmp_path, TEXTS[name])["points"], expected)


ROWS = np.round(np.random.default_rng(0).normal(size=(1000, 3)), 1).astype(np.float32)


def compressed(tmp_path, rows=ROWS):
    path = tmp_path / "c.pcd"
    pypcd4.PointCloud.from_points(list(rows.T), list("xyz"), [np.float32] * 3).save(
        path, encoding=pypcd4.Encoding.BINARY_COMPRESSED
    )
    assert b"binary_compressed" in path.read_bytes(), "pypcd4 leaves noise as it is"
    return path


def test_compressed_points_are_unpacked(tmp_path, monkeypatch):
    path = compressed(tmp_path)
    assert np.array_equal(read_cloud(path)["points"], ROWS)
    monkeypatch.setitem(__import__("sys").modules, "lzf", None)
    with pytest.raises(MissingExtraError, match=r"`lzf`.*i2p-zoo\[data\]"):
        read_cloud(path)


def patch(content, offset, value):
    start = content.index(b"compressed\n") + len(b"compressed\n")
    return content[: start + offset] + struct.pack("<I", value) + content[start + offset + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-40], "cut short"),
        (lambda content: patch(content, 4, 2**32 - 1), "4294967295"),
        (lambda content: patch(content, 0, 2**32 - 1), "cut short"),
        (lambda content: patch(patch(content.replace(b"1000", b"9999999"), 4, 9999999 * 12), 0, 90), "cut short"),
        (lambda content: content[:-2000] + bytes(2000), "damaged"),
    ],
    ids=["cut", "a size of 4 GB", "4 GB to read", "a bomb", "other bytes"],
)
def test_damaged_compressed_points_are_refused(tmp_path, change, message):
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path, change(compressed(tmp_path).read_bytes()))


def test_points_that_did_not_come_back_are_left_out_and_counted(tmp_path):
    content = header(n=4).replace("WIDTH 4\nHEIGHT 1", "WIDTH 2\nHEIGHT 2") + "nan nan nan\n1 2 3\n4 5 6\n7 8 10\n"
    with pytest.warns(UserWarning, match=r"a\.pcd: 1 point without coordinates \(NaN or infinite\) left out"):
        found = read(tmp_path, content)
    assert found["points"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 10]]
    with pytest.raises(InvalidInputError, match="none of its 2 points has coordinates"):
        read(tmp_path, header() + "nan 0 0\n0 inf 0\n")


def test_what_stands_beside_a_point_goes_with_it(tmp_path):
    fields = "x y z normal_x normal_y normal_z r g b intensity ring"
    content = header(fields, 3) + "0 0 nan 0 0 1 1 2 3 .5 1\n1 2 3 0 3 4 4 5 6 .25 2\n7 8 9 0 0 0 7 8 9 .75 3\n"
    with pytest.warns(UserWarning, match="1 point without"):
        found = read(tmp_path, content, scene=True)
    assert found["points"].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert np.allclose(found["normals"], [[0, 0.6, 0.8], [0, 0, 0]]), "of length 1, or 0 where it is unknown"
    assert found["rgb"].tolist() == [[4, 5, 6], [7, 8, 9]]
    assert found["intensity"].tolist() == [[0.25], [0.75]]
    assert found["field:ring"].tolist() == [[2], [3]]
    assert {array.dtype.name for array in found.values()} == {"float32", "uint8"}


def test_a_normal_that_is_no_number_costs_the_normals(tmp_path):
    content = header("x y z normal_x normal_y normal_z", 3) + "0 0 0 0 0 1\n1 0 0 nan nan nan\n0 1 0 0 0 1\n"
    with pytest.warns(UserWarning, match=r"its normals left out, of which 1 are NaN or infinite"):
        found = read(tmp_path, content)
    assert found.keys() == {"points"}
    assert found["points"].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_fields_of_several_values_and_padding(tmp_path):
    content = header("x y z _ vfh").replace("COUNT 1 1 1 1 1", "COUNT 1 1 1 2 3") + "1 2 3 0 0 7 8 9\n4 5 6 0 0 7 8 9\n"
    found = read(tmp_path, content, scene=True)
    assert list(found) == ["points", "field:vfh_0", "field:vfh_1", "field:vfh_2"]


REFUSED = {
    "more points": (header() + "1 2 3\n4 5 6\n7 8 9\n", "3 of 2 points"),
    "fields and sizes": (header().replace("SIZE 4 4 4", "SIZE 4 4"), "do not fit"),
    "an unknown type": (header().replace("TYPE F F F", "TYPE F F Q"), "do not fit"),
    "a field twice": (header("x y x"), "twice"),
    "no fields": (header().replace("FIELDS", "#"), "no line FIELDS"),
    "no data": ("VERSION .7\nFIELDS x y z\n", "no line DATA"),
    "other data": (header().replace("ascii", "hex"), "'hex'"),
    "a line of no PCD": ("hello, world\n", "hello, world"),
    "points of no number": (header(n="many"), "many"),
    "four billion points": (header(n=2**32).replace("ascii", "binary") + "12345678", "0 of 4294967296"),
    "four billion values": (header().replace("COUNT 1 1 1", "COUNT 1 1 4294967295"), "4294967295 values"),
    "bytes behind": (header(n=1).replace("ascii", "binary").encode() + bytes(12) + b"behind", "6 bytes more"),
    "packed colours of one byte": (
        header("x y z rgb").replace("SIZE 4 4 4 4", "SIZE 4 4 4 1").replace("F F F F", "F F F U") + "1 2 3 4\n1 2 3 4\n",
        "uint8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_headers_that_contradict_themselves_or_the_file_are_refused(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        read(tmp_path, content)


def test_a_page_filled_up_with_zeros_is_read(tmp_path):
    content = header(n=1).replace("ascii", "binary").encode() + struct.pack("<3f", 1, 2, 3) + bytes(100)
    assert read(tmp_path, content)["points"].tolist() == [[1, 2, 3]]
