"""LAS files written again: other classes, and every other bit as it was."""

from __future__ import annotations

import laspy
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.las_classes import check_las_codes, write_las_classes

COUNT = 40
FORMATS = [(1, "1.2"), (3, "1.2"), (6, "1.4"), (7, "1.4")]


def write_las(path, point_format=3, version="1.2"):
    """A file of metres in UTM, with what other programs put into a header, into records and beside a class."""
    random = np.random.default_rng(0)
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.offsets, header.scales = [448000.0, 5411000.5, -3.25], [0.001, 0.002, 0.01]
    header.system_identifier, header.generating_software = "a scanner", "another program"
    header.vlrs.append(laspy.VLR("LASF_Projection", 2112, "WKT", b'PROJCS["UTM 32N"]\0'))
    header.add_extra_dim(laspy.ExtraBytesParams("height", "float32"))
    las = laspy.LasData(header)
    las.X, las.Y, las.Z = random.integers(-(2**30), 2**30, (3, COUNT))
    las.classification = random.integers(0, 20, COUNT)
    las.intensity, las.return_number = random.integers(0, 2**16, COUNT), random.integers(1, 4, COUNT)
    las.synthetic, las.withheld = random.integers(0, 2, (2, COUNT))  # which share a byte with the class up to format 5
    las.height, las.gps_time = random.normal(size=(2, COUNT))
    if version == "1.4":  # behind the points
        las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("a scanner", 7, "long", bytes(range(250)) * 280)])
    las.write(path)
    if path.suffix == ".las":  # bounds that are not those of the points, as of a tile that was cut out of another
        content = path.read_bytes()
        path.write_bytes(content[:179] + np.array([9e6, -9e6]).tobytes() + content[195:])
    return path


@pytest.mark.parametrize(("point_format", "version"), FORMATS)
def test_all_but_the_classes_stays_to_the_bit(tmp_path, point_format, version):
    source = write_las(tmp_path / "a.las", point_format, version)
    codes = np.random.default_rng(1).integers(0, 32, COUNT)
    write_las_classes(tmp_path / "b.las", source, codes)
    before, after = (np.frombuffer((tmp_path / name).read_bytes(), np.uint8) for name in ("a.las", "b.las"))
    assert before.shape == after.shape
    start, length = (int.from_bytes(before[place : place + size], "little") for place, size in ((96, 4), (105, 2)))
    assert np.array_equal(before[:start], after[:start])
    assert np.array_equal(before[start + COUNT * length :], after[start + COUNT * length :])
    rows = [content[start : start + COUNT * length].reshape(COUNT, length).copy() for content in (before, after)]
    place, bits = (16, 0xFF) if point_format > 5 else (15, 0x1F)
    assert np.array_equal(rows[1][:, place] & bits, codes), "by the layout of the LAS specification"
    for row in rows:
        row[:, place] &= 0xFF ^ bits
    assert np.array_equal(*rows)


def test_compressed_files_keep_their_fields_and_are_compressed(tmp_path):
    source = write_las(tmp_path / "a.LAZ", 6, "1.4")
    codes = np.arange(COUNT) + 200
    write_las_classes(tmp_path / "b.LAZ", source, codes)
    before, after = laspy.read(source), laspy.read(tmp_path / "b.LAZ")
    assert after.header.are_points_compressed
    assert np.array_equal(after.classification, codes)
    assert np.array_equal(after.header.offsets, before.header.offsets)
    assert np.array_equal(after.header.scales, before.header.scales)
    for records in ((before.vlrs, after.vlrs), (before.evlrs, after.evlrs)):
        assert [vlr.record_data_bytes() for vlr in records[0]] == [vlr.record_data_bytes() for vlr in records[1]]
    for name in set(before.point_format.dimension_names) - {"classification"}:
        assert np.array_equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("point_format", "codes", "message"),
    [
        ((3, "1.2"), [2, 40], r"3 holds classes of 0 to 31, and the network's are 40, .*Convert it to point format 6"),
        ((6, "1.4"), [2, 256], r"6 holds classes of 0 to 255, and the network's are 256.*Write it as \.ply"),
        ((6, "1.4"), [-1, 2], r"6 holds .*the network's are -1.*Write it as \.ply"),
    ],
)
def test_codes_that_the_format_has_no_room_for_are_refused_and_nothing_is_written(tmp_path, point_format, codes, message):
    source = write_las(tmp_path / "a.las", *point_format)
    with pytest.raises(InvalidInputError, match=rf"a\.las: its point format .*{message}"):
        check_las_codes(source, np.array(codes))
    with pytest.raises(InvalidInputError, match="holds classes"):
        write_las_classes(tmp_path / "b.las", source, np.resize(codes, COUNT))
    with pytest.raises(InvalidInputError, match=rf"a\.las has {COUNT} points, and 3 classes"):
        write_las_classes(tmp_path / "b.las", source, np.zeros(3, int))
    assert [path.name for path in tmp_path.iterdir()] == ["a.las"]


@pytest.mark.parametrize("name", ["a.las", "a.laz"])
def test_a_file_is_written_again_where_files_in_use_cannot_be_replaced(tmp_path, files_in_use, name):
    source = write_las(tmp_path / name)
    for _ in range(2):
        write_las_classes(tmp_path / f"b{source.suffix}", source, np.full(COUNT, 7))
    assert (laspy.read(tmp_path / f"b{source.suffix}").classification == 7).all()
