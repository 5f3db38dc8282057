"""STL files, as text with any number of solids, and binary with whatever stands in their titles."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files import stl
from i2p_zoo.data.files.cloud_files import read_cloud

BOX = trimesh.creation.box((1, 2, 3))
TEXT, BINARY = BOX.export(file_type="stl_ascii"), BOX.export(file_type="stl")
CORNERS = BOX.triangles.reshape(-1, 3)
FACET = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
READ = {
    "text": TEXT.encode(),
    "text with a name and blanks": TEXT.replace("solid ", "solid my  solid 1.0").replace("\n", " \n\t").encode(),
    "capitals and Windows' lines": b"\xef\xbb\xbf" + TEXT.upper().replace("\n", "\r\n").encode(),
    "no normals": TEXT.replace("normal -1.0 0.0 0.0", "normal nan nan nan").encode(),
    "binary": BINARY,
    "binary that begins as a text": b"solid by a program".ljust(80) + BINARY[80:],
}


@pytest.mark.parametrize("block", [2**24, 50])
@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_corners_are_those_of_the_file_in_its_order(tmp_path, monkeypatch, content, block):
    monkeypatch.setattr(stl, "_BLOCK", block)
    (tmp_path / "a.stl").write_bytes(content)
    assert np.array_equal(read_cloud(tmp_path / "a.stl", scene=True)["points"], CORNERS)


def test_attributes_are_told(tmp_path):
    (tmp_path / "a.stl").write_bytes(BINARY[:-1] + b"\x80")
    with pytest.warns(UserWarning, match="attributes of its triangles"):
        read_cloud(tmp_path / "a.stl")


REFUSED = {
    "a solid within another": (f"solid a\n{FACET}solid b\n{FACET}endsolid\n", "expected facets"),
    "a facet outside": (f"solid a\n{FACET}endsolid a\n{FACET}", "'facet normal 0 0 1.*outside"),
    "an end alone": (f"solid a\nendsolid\n{FACET}endsolid\n", "outside"),
    "two corners": (f"solid\n{FACET.replace('vertex 1 0 0', '')}endsolid\n", "expected facets of a normal and three vertices"),
    "a corner of two numbers": (f"solid\n{FACET.replace('1 0 0', '1 0')}endsolid\n", "'vertex 1 0'|'1 0'|found"),
    "the vertices first": (
        f"solid\n{FACET.replace('facet normal', 'vertex', 1).replace('vertex 1', 'facet normal 1')}endsolid",
        "facets",
    ),
    "nothing": ("solid a\nendsolid a\n", "no triangles"),
    "cut in a number": (f"solid a\n{FACET}{FACET}"[:-40], "cut short: its solid 1 has no end"),
    "an empty binary": ("\0" * 84, "no triangles"),
    "billions of triangles": ("\0" * 80 + "\x7f\x7f\x7f\x7f" + "\0" * 100, "cut short: 2 of 2139062143 triangles"),
    "half a header": ("\0" * 40, "cut short: 0 of 0"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_damaged_is_refused(tmp_path, text, message):
    (tmp_path / "a.stl").write_bytes(text.encode())
    with pytest.raises(InvalidInputError, match=message):
        read_cloud(tmp_path / "a.stl", scene=True)
