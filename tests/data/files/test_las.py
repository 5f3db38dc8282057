"""LAS and LAZ files by laspy: every dimension, coordinates to the digit, and headers that promise too much."""

from __future__ import annotations

import struct
import subprocess
import sys

import laspy
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

RANDOM = np.random.default_rng(0)
POINTS = np.round(RANDOM.uniform(0, 50, (500, 3)), 3) + np.array([500_000, 5_400_000, 300])


def write(path, point_format=7, version="1.4", **dimensions):
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = [0.001] * 3, np.floor(POINTS.min(0))
    extra = [name for name in dimensions if name not in header.point_format.dimension_names]
    header.add_extra_dims([laspy.ExtraBytesParams(name, str(dimensions[name].dtype)) for name in extra])
    file = laspy.LasData(header)
    file.x, file.y, file.z = POINTS.T
    for name, values in dimensions.items():
        file[name] = values
    file.write(str(path))
    return path


@pytest.mark.parametrize("ending", [".las", ".laz"])
@pytest.mark.parametrize(("point_format", "version"), [(0, "1.2"), (3, "1.2"), (3, "1.3"), (6, "1.4"), (8, "1.4")])
def test_a_scene_has_every_dimension(tmp_path, ending, point_format, version):
    given = {"intensity": RANDOM.integers(0, 2**16, 500).astype(np.uint16), "classification": RANDOM.integers(0, 9, 500)}
    given["reflectance"] = RANDOM.normal(size=500).astype(np.float32)
    path = write(tmp_path / f"a{ending}", point_format, version, **given)
    found = read_cloud(path, scene=True)
    assert found["points"].dtype == np.float64
    assert np.abs(found["points"] - POINTS).max() < 1e-8
    assert np.allclose(found["intensity"][:, 0], given["intensity"] / 65535, atol=1e-7), "fractions of 16 bits"
    assert np.array_equal(found["field:classification"][:, 0], given["classification"])
    assert np.array_equal(found["field:reflectance"][:, 0], given["reflectance"])
    expected = set(laspy.read(path).point_format.dimension_names) - {"X", "Y", "Z", "red", "green", "blue", "intensity"}
    assert {name.removeprefix("field:") for name in found} - {"points", "rgb", "intensity"} == expected
    assert all(array.shape == (500, 1) for name, array in found.items() if name not in ("points", "rgb"))
    assert read_cloud(path).keys() == {"points", "rgb"} & found.keys()


def field(content, offset, form, value):
    packed = struct.pack(form, value)
    return content[:offset] + packed + content[offset + len(packed) :]


def of_laszip(content, offset, form, value):
    """Changes a number in the record of LASzip, which begins 54 bytes behind its header."""
    return field(content, content.index(b"laszip encoded") - 2 + 54 + offset, form, value)


def table_of(content):
    start = struct.unpack_from("<I", content, 96)[0]
    return struct.unpack_from("<q", content, start)[0]


def layers_of(content):
    """Where the sizes of the first chunk's layers stand, behind a whole point and the number of points."""
    return struct.unpack_from("<I", content, 96)[0] + 8 + 36 + 4


HOSTILE = {
    "four billion records.las": lambda content: field(content, 100, "<I", 2**32 - 1),
    "four billion extended records.las": lambda content: field(content, 243, "<I", 2**32 - 1),
    "extended records beyond the end.las": lambda content: field(field(content, 243, "<I", 1), 235, "<Q", 2**62),
    "four billion points.las": lambda content: field(content, 247, "<Q", 2**32 - 1),
    "points of no bytes.las": lambda content: field(content, 105, "<H", 0),
    "a record beyond the points.laz": lambda content: field(content, 375 + 20, "<H", 2**16 - 1),
    "points beyond the end.las": lambda content: field(content, 96, "<I", 2**32 - 1),
    "four billion points.laz": lambda content: field(content, 247, "<Q", 2**32 - 1),
    "point by point.laz": lambda content: of_laszip(content, 0, "<H", 1),
    "an unknown compressor.laz": lambda content: of_laszip(content, 0, "<H", 9),
    "huge chunks.laz": lambda content: of_laszip(content, 12, "<I", 2**32 - 2),
    "chunks of any size.laz": lambda content: of_laszip(content, 12, "<I", 2**32 - 1),
    "four billion chunks.laz": lambda content: field(content, table_of(content) + 4, "<I", 2**32 - 1),
    "a table beyond the end.laz": lambda content: field(content, struct.unpack_from("<I", content, 96)[0], "<q", 2**60),
    "a layer of 4 GB.laz": lambda content: field(content, layers_of(content), "<I", 2**32 - 1),
    "no record of LASzip.laz": lambda content: content.replace(b"laszip encoded", b"laszip removed"),
    "noise for points.laz": lambda content: (
        content[: layers_of(content) + 60] + RANDOM.bytes(900) + content[layers_of(content) + 960 :]
    ),
}
CHILD = """
import sys, time
from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud
import laspy, lazrs
start = time.perf_counter()
try:
    print("read", len(read_cloud(sys.argv[1])["points"]))
except InvalidInputError as error:
    print(error)
print(time.perf_counter() - start < 5)
"""


def test_hostile_headers_are_refused_at_once_and_in_one_line(tmp_path):
    """In a process of its own, so that a decoder that ends it, or prints to the process's standard error, is seen."""
    for name, change in HOSTILE.items():
        path = tmp_path / name
        path.write_bytes(change(write(tmp_path / f"whole{path.suffix}").read_bytes()))
    code = (
        CHILD.replace("start =", "for sys.argv[1] in sys.argv[1:]:\n  start =")
        .replace("\ntry", "\n  try")
        .replace("\nexcept", "\n  except")
    )
    code = code.replace("\n    print", "\n      print").replace("\nprint", "\n  print")
    paths = [str(tmp_path / name) for name in HOSTILE]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) == 2 * len(HOSTILE)
    for path, line, quick in zip(paths, lines[::2], lines[1::2], strict=True):
        assert line.startswith(f"{path} cannot be read: ") or path.endswith("noise for points.laz"), line
        assert quick == "True", path


def test_a_panic_of_a_decoder_is_one_error_and_prints_nothing(tmp_path, monkeypatch, capfd):
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def read(*_, **__):
        import os

        os.write(2, b"thread '<unnamed>' panicked at src/lib.rs\n")
        raise PanicException("index out of bounds")

    path = write(tmp_path / "a.las")
    monkeypatch.setattr(laspy, "read", read)
    with pytest.raises(InvalidInputError, match=r"a\.las cannot be read: PanicException: index out of bounds"):
        read_cloud(path)
    assert capfd.readouterr().err == ""
