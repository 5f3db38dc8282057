"""Clouds as text as programs write them; the right values are those that a reader of the text sees."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

FIRST = (1.25, 2.5, 3.75)
NORMAL = (0.6, 0.0, 0.8)
BOM = b"\xef\xbb\xbf"

TEXTS = {
    "plain.xyz": (b"1.25 2.5 3.75\n4 5 6\n", {}),
    "spaces and tabs.txt": (b"  1.25\t 2.5   3.75  \r\n4 5 6\r\n\r\n", {}),
    "no line's end.xyz": (b"1.25 2.5 3.75\n4 5 6", {}),
    "exponents.xyz": (b"1.25e0 2.5E+0 .375e1\n4 5 6\n", {}),
    "a comment.txt": (b"# by hand\n\n1.25 2.5 3.75\n4 5 6\n", {}),
    "modelnet_normal_resampled.txt": (b"1.25,2.5,3.75,0.6,0,0.8\n4,5,6,0,0,1\n", {"normals": NORMAL}),
    "shapenetpart.txt": (b"1.25 2.5 3.75 0.6 0 0.8 12.000000\n4 5 6 0 0 1 3.000000\n", {"normals": NORMAL, "field:7": 12}),
    "semantic3d.txt": (b"1.25 2.5 3.75 -1381 255 0 10\n4 5 6 -1297 1 2 3\n", {"rgb": (255, 0, 10), "field:4": -1381}),
    "leica.pts": (b"2\n1.25 2.5 3.75 120 255 0 10\n4 5 6 30 1 2 3\n", {"rgb": (255, 0, 10), "field:4": 120}),
    "leica intensity.pts": (b"2\r\n1.25 2.5 3.75 -1381\r\n4 5 6 -12\r\n", {"field:4": -1381}),
    "cloudcompare.asc": (
        b"1.25 2.5 3.75 255 0 10 143.0 nan 0.6 0 0.8\n4 5 6 1 2 3 18.0 nan 0 0 1\n",
        {"rgb": (255, 0, 10), "normals": NORMAL, "field:7": 143, "field:8": float("nan")},
    ),
    "cloudcompare labelled.asc": (b"1.25 2.5 3.75 255 0 10 7\n4 5 6 1 2 3 8\n", {"rgb": (255, 0, 10), "field:7": 7}),
    "cloudcompare header.csv": (
        b"//X;Y;Z;R;G;B;Scalar field\n2\n1.25;2.5;3.75;255;0;10;143.0\n4.0;5.0;6.0;1;2;3;18.0\n",
        {"rgb": (255, 0, 10), "field:scalar_field": 143},
    ),
    "cloudcompare header.txt": (
        b"//X Y Z Intensity Nx Ny Nz\n1.25 2.5 3.75 7 0.6 0 0.8\n4 5 6 8 0 0 1\n",
        {"normals": NORMAL, "intensity": 7},
    ),
    "excel german.csv": (BOM + b"X;Y;Z;R;G;B\r\n1,25;2,5;3,75;255;0;10\r\n4,0;5,0;6,0;1;2;3\r\n", {"rgb": (255, 0, 10)}),
    "excel unicode.txt": ("X\tY\tZ\r\n1,25\t2,5\t3,75\r\n4,0\t5\t6\r\n".encode("utf-16"), {}),
    "decimal commas and spaces.xyz": (b"1,25 2,5 3,75\n4,0 5,0 6,0\n", {}),
    "comma and space.csv": (b"x, y, z\n1.25, 2.5, 3.75\n4, 5, 6\n", {}),
    "quoted.csv": (b'"x","y","z"\n"1.25","2.5","3.75"\n"4","5","6"\n', {}),
    "pandas index.csv": (b",x,y,z\n0,1.25,2.5,3.75\n1,4,5,6\n", {"field:1": 0}),
    "another order.csv": (
        b"label,z,y,x,Blue,Green,Red\n3,3.75,2.5,1.25,10,0,255\n1,6,5,4,3,2,1\n",
        {"rgb": (255, 0, 10), "field:label": 3},
    ),
    "a comment behind the header.txt": (b"# y x z\n# in metres\n# by a scanner\n2.5 1.25 3.75\n5 4 6\n", {}),
    # as Open3D writes them: neither its normals, of any length, nor its colours can be told by their values
    "open3d.xyzn": (
        b"1.2500000000 2.5000000000 3.7500000000 1.2000000000 0.0000000000 1.6000000000\n4 5 6 0 0 0.5\n",
        {"normals": NORMAL},
    ),
    "open3d.xyzrgb": (
        b"1.2500000000 2.5000000000 3.7500000000 1.0000000000 0.0000000000 0.0392156863\n4 5 6 0 0 0\n",
        {"rgb": (255, 0, 10)},
    ),
    "open3d white.XYZRGB": (b"1.25 2.5 3.75 1.0 1.0 1.0\n4.0 5.0 6.0 1.0 1.0 1.0\n", {"rgb": (255, 255, 255)}),
    "a header.xyzn": (b"# x y z r g b\n1.25 2.5 3.75 255 0 10\n4 5 6 1 2 3\n", {"rgb": (255, 0, 10)}),
    "three words.txt": (b"# by a scanner\n1.25 2.5 3.75\n4 5 6\n", {}),
    "numpy.txt": (b"# x y z\n1.250000000000000000e+00 2.5e+00 3.75e+00\n4 5 6\n", {}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_first_point_and_what_it_carries(tmp_path, name):
    content, extras = TEXTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    found = read_cloud(path, scene=True)
    assert found.keys() == {"points", *extras}
    assert np.array_equal(found["points"], [FIRST, (4, 5, 6)])
    for key, value in extras.items():
        assert np.allclose(found[key][0], value, equal_nan=True), key
    plain = read_cloud(path)
    assert plain.keys() == {key for key in found if key in ("points", "normals", "rgb")}


def test_columns_that_are_said_win_over_doubt_and_header(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1 2 3 4 5 6 7\n8 9 10 11 12 13 14\n9 9 9 9 9 9 9\n")
    with pytest.raises(InvalidInputError, match="x,y,z,r,g,b,7 or x,y,z,4,r,g,b"):
        read_cloud(path)
    assert read_cloud(path, columns="x,y,z,i,r,g,b")["rgb"][0].tolist() == [5, 6, 7]
    path.write_text("x y z a b c\n1 2 3 4 5 6\n")
    assert read_cloud(path, columns="x,y,z,r,g,b")["rgb"].tolist() == [[4, 5, 6]]


def test_utm_keeps_every_digit(tmp_path):
    (tmp_path / "a.asc").write_text("637012.23999977 849028.30999947 431.66000366\n636896.33000183 849087.69999695 446.39\n")
    found = read_cloud(tmp_path / "a.asc")["points"]
    assert found.dtype == np.float64
    assert found[0].tolist() == [637012.23999977, 849028.30999947, 431.66000366]


HEADERS_WITHOUT_XYZ = {
    "time first.csv": ("time,px,py,pz\n0.5,1.25,2.5,3.75\n", "time,x,y,z"),
    "degrees.csv": ("lat;lon;alt\n2,5;1,25;3,75\n", "y,x,z"),
    "tabs.txt": ("northing\teasting\theight\n2.5\t1.25\t3.75\n", "y,x,z"),
    "blanks.txt": ("# intensity px py pz\n0.5 1.25 2.5 3.75\n", "i,x,y,z"),
}


@pytest.mark.parametrize("name", HEADERS_WITHOUT_XYZ)
def test_under_a_header_without_x_y_and_z_columns_are_not_taken_by_their_place(tmp_path, name):
    text, columns = HEADERS_WITHOUT_XYZ[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=r"header .* does not say which columns are x, y and z; .* columns=x,y,z"):
        read_cloud(tmp_path / name)
    assert read_cloud(tmp_path / name, columns=columns)["points"].tolist() == [list(FIRST)]


REFUSED = {
    "prose.txt": (b"A data set of chairs.\nPlease cite us.\n", "no line of three numbers"),
    "two columns.txt": (b"1 2\n3 4\n", "found 2 columns"),
    "a word.txt": (b"1 2 3\n4 five 6\n", "'five'"),
    "uneven.txt": (b"1 2 3\n4 5\n", "from 3 to 2"),
    "short of its count.pts": (b"3\n1 2 3\n4 5 6\n", "2 of the 3 points"),
    "more than its count.pts": (b"1\n1 2 3\n4 5 6\n", "2 of the 1 points"),
    "two headers of one name.csv": (b"x,y,z,r,red\n1,2,3,4,5\n", "'r' more than once"),
    "a header of other length.csv": (b"x,y,z,i\n1,2,3\n", "another number of columns"),
    "a hole.csv": (b"x,y,z\n1,2,3\n1,,3\n", "could not convert"),
    "zeros.txt": (bytes(100), "no text"),
    "nothing but a count.pts": (b"7\n", "no line of three numbers"),
    "blank.txt": (b"\n\n \n", "no line of three numbers"),
    "ids.csv": (b"1,0.5,0.5,0.5\n2,0.25,0.5,0.5\n3,0.5,0.25,0.5\n", "counts its rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_that_is_no_cloud_or_in_doubt_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"{name}.*{message}"):
        read_cloud(tmp_path / name)
