"""SemanticKITTI in files of its layout: the official map of ids, instances, empty scans, and every fault by name."""

from __future__ import annotations

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import hold_out_scenes
from i2p_zoo.data.sets.semantickitti import CLASSES, load_semantickitti
from i2p_zoo.errors import NotFoundError

# The learning map of semantic-kitti.yaml in the benchmark's numbers, in which 0 is unlabelled and 1 the first class.
OFFICIAL = """
    0:0 1:0 10:1 11:2 13:5 15:3 16:5 18:4 20:5 30:6 31:7 32:8 40:9 44:10 48:11 49:12 50:13 51:14 52:0 60:9 70:15 71:16 72:17
    80:18 81:19 99:0 252:1 253:7 254:6 255:8 256:5 257:5 258:4 259:5
"""
MAP = dict(map(int, pair.split(":")) for pair in OFFICIAL.split())
POINTS = np.random.default_rng(0).normal(size=(len(MAP), 4)).astype("<f4")


def write_scan(sequence, number=0, points=POINTS[:3], ids=(10, 40, 0)):
    for folder in ("velodyne", "labels"):
        (sequence / folder).mkdir(parents=True, exist_ok=True)
    scan, labels = sequence / "velodyne" / f"{number:06d}.bin", sequence / "labels" / f"{number:06d}.label"
    scan.write_bytes(points if isinstance(points, bytes) else points.tobytes())
    labels.write_bytes(ids if isinstance(ids, bytes) else np.array(ids, "<u4").tobytes())
    return scan, labels


@pytest.fixture
def sequences(tmp_path):
    """The sequences of a release, one scan each; the last two have no labels."""
    root = tmp_path / "dataset" / "sequences"
    for number in range(13):
        _, labels = write_scan(root / f"{number:02d}")
        if number > 10:
            labels.unlink()
            labels.parent.rmdir()
    return root


def test_scans_are_listed_by_the_official_sequences(tmp_path, sequences):
    write_scan(sequences / "08", 12)
    write_scan(sequences / "00", 7)
    train, test = load_semantickitti(str(tmp_path))
    assert train.names == ("00/000000", "00/000007", *(f"{n:02d}/000000" for n in (1, 2, 3, 4, 5, 6, 7, 9, 10)))
    assert test.names == ("08/000000", "08/000012")
    assert load_semantickitti(tmp_path / "dataset")[1].names == test.names
    assert train.classes == test.classes == CLASSES


def test_a_sequence_is_held_out_whole(tmp_path, sequences):
    for number in range(1, 4):
        write_scan(sequences / "00", number)
        write_scan(sequences / "05", number)
    train = load_semantickitti(tmp_path)[0]
    for seed in range(8):
        kept, held = hold_out_scenes(train, 0.5, seed)
        assert not {name[:2] for name in kept.names} & {name[:2] for name in held.names}
        assert len(held) == 8


def test_official_classes_are_these():
    assert len(CLASSES) == 19
    assert (CLASSES[0], CLASSES[8], CLASSES[18]) == ("car", "road", "traffic-sign")


def test_ids_are_mapped_as_officially_whatever_their_instance(tmp_path, sequences):
    instances = np.random.default_rng(1).integers(0, 2**16, len(MAP)).astype(np.uint32)
    instances[:2] = 0, 2**16 - 1
    write_scan(sequences / "08", points=POINTS, ids=np.array(list(MAP), np.uint32) | instances << 16)
    scene = load_semantickitti(tmp_path)[1].scene(0)
    assert scene["labels"].tolist() == [number - 1 for number in MAP.values()]
    assert np.array_equal(scene["points"], POINTS)
    assert scene["points"].dtype == np.float32
    assert scene.keys() == {"points", "labels", "intensity"}
    assert np.array_equal(scene["intensity"], POINTS[:, 3:])


def test_an_empty_scan_is_left_out_with_a_warning(tmp_path, sequences):
    scan, _ = write_scan(sequences / "04", 3, b"", b"")
    write_scan(sequences / "04", 4, b"", b"")
    with pytest.warns(UserWarning, match=rf"2 scans such as {scan} have no points and are left out"):
        train, _ = load_semantickitti(tmp_path)
    assert len(train) == 10
    assert [name for name in train.names if name.startswith("04")] == ["04/000000"]
    assert train.scene(9)["labels"].tolist() == [0, 8, -1]


MALFORMED = {
    "a label fewer": (POINTS[:3].tobytes(), (10, 40), r"000005\.bin has 3 points and .*000005\.label has 2 labels"),
    "a label more": (POINTS[:2].tobytes(), (10, 40, 0), "has 2 points and .* has 3 labels"),
    "labels of nothing": (b"", (10,), "has 0 points and .* has 1 labels"),
    "no labels": (POINTS[:1].tobytes(), (), "has 1 points and .* has 0 labels"),
    "a scan cut short": (POINTS.tobytes()[:47], (10, 40, 0), r"000005\.bin: 47 bytes are not a multiple of the 16"),
    "labels cut short": (POINTS[:2].tobytes(), b"\n\0\0\0\n\0", r"000005\.label: 6 bytes are not a multiple of the 4"),
}


@pytest.mark.parametrize(("points", "ids", "message"), MALFORMED.values(), ids=MALFORMED)
def test_files_that_do_not_fit_are_named_when_listed_and_when_read(tmp_path, sequences, points, ids, message):
    write_scan(sequences / "08", 5)
    test = load_semantickitti(tmp_path)[1]
    write_scan(sequences / "08", 5, points, ids)
    with pytest.raises(InvalidInputError, match=message):
        test.scene(1)
    with pytest.raises(InvalidInputError, match=message):
        load_semantickitti(tmp_path)


@pytest.mark.parametrize("wrong", [2, 100, 260, 65535])
def test_an_unknown_id_is_named_with_its_point(tmp_path, sequences, wrong):
    write_scan(sequences / "08", ids=(10, 40, wrong | 3 << 16))
    test = load_semantickitti(tmp_path)[1]
    with pytest.raises(InvalidInputError, match=rf"08/labels/000000\.label: the label of point 2 is {wrong}; .*0, 1, 10.*259"):
        test.scene(0)


def test_a_value_that_is_not_finite_is_refused_by_the_name_of_its_scan(tmp_path, sequences):
    points = POINTS[:3].copy()
    points[1, 2] = np.nan
    write_scan(sequences / "08", points=points)
    with pytest.raises(InvalidInputError, match=r"Scene '08/000000': its points"):
        load_semantickitti(tmp_path)[1].scene(0)


def test_a_scan_without_labels_is_named(tmp_path, sequences):
    (sequences / "06" / "labels" / "000000.label").unlink()
    with pytest.raises(
        NotFoundError, match=r"06/labels/000000\.label: no such file\. The scan .*06/velodyne/000000\.bin has no labels"
    ):
        load_semantickitti(tmp_path)


@pytest.mark.parametrize("number", ["03", "08"])
def test_a_missing_sequence_is_named(tmp_path, sequences, number):
    (sequences / number).rename(sequences / "21x")
    with pytest.raises(NotFoundError, match=rf"sequences/{number}/velodyne: no such scans as 000000\.bin.*semantic-kitti\.org"):
        load_semantickitti(tmp_path)


@pytest.mark.parametrize("name", [".", "none"])
def test_a_folder_with_nothing_of_it_says_where_it_is_available(tmp_path, name):
    with pytest.raises(NotFoundError, match=r"semantic-kitti\.org"):
        load_semantickitti(tmp_path / name)
