"""Folders of one's own labelled scans, as CloudCompare, laspy and numpy write them: where labels stand and what they mean."""

from __future__ import annotations

import pickle
import shutil

import laspy
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import check_scenes
from i2p_zoo.data.sets.scans import load_scans
from i2p_zoo.data.specs import load_scenes
from i2p_zoo.errors import NotFoundError

UTM = np.array([448_262.25, 5_411_932.5, 110.125])
ASPRS = np.array([2, 6, 1, 5, 2, 0])
PLACES = np.arange(18).reshape(6, 3) / 8 + UTM


def write_las(path, codes=ASPRS, points=PLACES, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.offsets, header.scales = [448_000, 5_411_000, 0], [0.001] * 3
    for name in set(fields) - set(header.point_format.dimension_names):
        header.add_extra_dim(laspy.ExtraBytesParams(name, "uint8"))
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    las.classification = codes
    for name, values in fields.items():
        las[name] = values
    las.write(path)


def write_ply(path, columns, kinds="float"):
    """As CloudCompare writes it: doubles for places, a scalar field as a float of its own name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["x", "y", "z", *columns]
    lines = ["ply", "format binary_little_endian 1.0", "comment Created by CloudCompare v2.13", f"element vertex {len(PLACES)}"]
    lines += [f"property {'double' if name in 'xyz' else kinds} {name}" for name in names]
    rows = np.empty(len(PLACES), [(name, "<f8" if name in "xyz" else {"float": "<f4", "uchar": "u1"}[kinds]) for name in names])
    for name, values in {**dict(zip("xyz", PLACES.T, strict=True)), **columns}.items():
        rows[name] = values
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + rows.tobytes())


def write_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


@pytest.fixture
def city(tmp_path):
    """Two files to train on and one to test on, with a list of classes."""
    write_las(tmp_path / "train" / "a.las", intensity=np.arange(6) * 13107, return_number=[1, 2, 1, 2, 1, 3])
    write_las(tmp_path / "train" / "north" / "b.laz", ASPRS[:4], PLACES[:4] + 0.5)
    write_las(tmp_path / "test" / "c.las", ASPRS[:3], PLACES[:3] - 0.5)
    (tmp_path / "classes.txt").write_text("2 ground\n5 plants\n6 building\n0 ignored\n1 ignored\n")
    return tmp_path


def test_las_files_are_scenes_in_their_coordinates_with_the_classes_of_the_list(city):
    train, test = load_scenes(f"scans:{city}")
    assert (train.names, test.names) == (("train/a.las", "train/north/b.laz"), ("test/c.las",))
    assert train.classes == test.classes == ("ground", "plants", "building")
    assert train.codes == (2, 5, 6)
    scene = train.scene(0)
    assert scene["points"].dtype == np.float64
    assert np.array_equal(scene["points"], PLACES), "to the digit: these are exact"
    assert scene["labels"].tolist() == [0, 2, -1, 1, 0, -1]
    assert np.allclose(scene["intensity"][:, 0], np.arange(6) / 5, atol=1e-7), "16 bits as fractions of 65535"
    assert scene["field:return_number"].ravel().tolist() == [1, 2, 1, 2, 1, 3]
    assert "field:classification" not in scene, "what is to be learned is no feature"
    assert [len(train.scene(1)["points"]), len(test.scene(0)["points"])] == [4, 3]
    with pytest.raises(InvalidInputError, match=r"train/a\.las' has no field:classification.*it has xyz, rgb, intensity"):
        train.reading("field:classification").scene(0)


def test_files_are_read_when_asked_for_and_sets_go_to_other_processes(city):
    (city / "train" / "a.las").write_bytes(b"no las")
    train, _ = load_scenes(f"scans:{city}")
    assert len(pickle.loads(pickle.dumps(train)).scene(1)["labels"]) == 4
    with pytest.raises(InvalidInputError, match=r"a\.las cannot be read"):
        train.scene(0)
    with pytest.raises(InvalidInputError, match=r"a\.las cannot be read"):
        check_scenes(train)


def test_without_a_list_the_codes_of_las_are_the_classes_by_its_names(city):
    (city / "classes.txt").unlink()
    with pytest.warns(UserWarning, match=r"classification 0, 1 are no class to LAS.*`1 other`"):
        train, test = load_scans(city)
    assert train.classes == test.classes == ("ground", "high vegetation", "building")
    assert train.codes == (2, 5, 6)
    assert train.scene(0)["labels"].tolist() == [0, 2, -1, 1, 0, -1]


LABELS = np.array([0, 7, 7, 3, 0, 3])
PLIES = {
    "CloudCompare": ({"scalar_Label": LABELS}, "float"),
    "CloudCompare's LAS": ({"scalar_Classification": LABELS, "scalar_Intensity": LABELS}, "float"),
    "Paris-Lille-3D": ({"class": LABELS, "reflectance": LABELS}, "uchar"),
    "DALES": ({"sem_class": LABELS, "ins_class": LABELS + 1}, "float"),
    "bytes": ({"label": LABELS}, "uchar"),
}


@pytest.mark.parametrize(("columns", "kinds"), PLIES.values(), ids=PLIES)
def test_labels_of_other_programs_are_known_by_their_names(tmp_path, columns, kinds):
    for split in ("train", "val"):
        write_ply(tmp_path / split / "a.ply", columns, kinds)
    train, test = load_scans(tmp_path)
    assert train.classes == ("0", "3", "7")
    assert train.codes == (0, 3, 7)
    assert test.scene(0)["labels"].tolist() == [0, 2, 2, 1, 0, 1]
    assert np.array_equal(train.scene(0)["points"], PLACES)


NONE = {
    "NaN of CloudCompare": ({"scalar_Label": np.where(LABELS == 7, np.nan, LABELS)}, "float"),
    "-1": ({"label": np.where(LABELS == 7, -1, LABELS)}, "float"),
    "-1 in a byte": ({"label": np.where(LABELS == 7, 255, LABELS)}, "uchar"),
}


@pytest.mark.parametrize(("columns", "kinds"), NONE.values(), ids=NONE)
def test_points_without_a_label_are_of_no_class(tmp_path, columns, kinds):
    for split in ("train", "test"):
        write_ply(tmp_path / split / "a.ply", columns, kinds)
    train, _ = load_scans(tmp_path)
    assert train.classes == ("0", "3")
    assert train.scene(0)["labels"].tolist() == [0, -1, -1, 1, 0, 1]


def test_scenes_of_pointcept_are_read(tmp_path):
    for split, count in (("train", 6), ("val", 4)):
        write_npz(
            tmp_path / split / "scene.npz",
            coord=PLACES[:count],
            color=np.full((count, 3), 9, np.uint8),
            normal=np.tile([0, 0, 1.0], (count, 1)),
            segment=LABELS[:count],
            instance=np.arange(count),
        )
    train, test = load_scans(tmp_path)
    scene = train.scene(0)
    assert np.array_equal(scene["points"], PLACES)
    assert scene["labels"].tolist() == [0, 2, 2, 1, 0, 1]
    assert scene["rgb"].tolist() == [[9, 9, 9]] * 6
    assert scene["normals"].tolist() == [[0, 0, 1]] * 6
    assert len(test.scene(0)["labels"]) == 4


def test_options_of_the_text_name_labels_list_and_split(tmp_path):
    other = tmp_path / "with ,=? marks"
    for split in ("train", "test", "val"):
        write_las(other / split / "a.las", np.zeros(6, int), tree=LABELS)
    (tmp_path / "trees.txt").write_text("0 oak\n3 elm\n7 ignored\n")
    train, test = load_scenes(f"scans:{other},label=tree,classes={tmp_path}/trees.txt,test=val")
    assert test.names == ("val/a.las",)
    assert train.classes == ("oak", "elm")
    assert train.scene(0)["labels"].tolist() == [0, -1, -1, 1, 0, 1]
    assert train.scene(0)["field:classification"].tolist() == [[0]] * 6
    assert load_scenes(f"scans:{other},label=Scalar_Tree,test=val")[0].codes == (0, 3, 7), "as CloudCompare shows it"
    with pytest.warns(UserWarning, match="test is the test split and val is left out"):
        assert load_scenes(f"scans:{other},label=tree")[0].classes == ("0", "3", "7")
    for options, name in (("labels=tree", "labels"), ("label=tree,x=1", "x"), ("test=val,test=test", "test")):
        with pytest.raises(InvalidInputError, match=f"scans takes label, classes, test and columns.*got '{name}'"):
            load_scenes(f"scans:{other},{options}")


def refused(write, message, tmp_path, list_text=None, **options):
    for split in ("train", "test"):
        write(tmp_path / split)
    if list_text:
        (tmp_path / "classes.txt").write_text(list_text)
    with pytest.raises(InvalidInputError, match=message):
        load_scans(tmp_path, **options)[0].scene(0)


def test_labels_that_cannot_be_told_are_refused_with_the_fields_of_the_file(tmp_path):
    columns = {"class": LABELS, "label": LABELS, "height": LABELS}
    message = r"a\.ply: class, label may each be its labels; its fields are class, label, height.*scans:FOLDER,label=NAME"
    refused(lambda folder: write_ply(folder / "a.ply", columns), message, tmp_path / "several")
    message = r"a\.npz: no field is called label, labels, .*its fields are segment20, segment200.*label=NAME"
    arrays = {"coord": PLACES, "segment20": LABELS, "segment200": LABELS}
    refused(lambda folder: write_npz(folder / "a.npz", **arrays), message, tmp_path / "none")
    message = r"a\.ply: no field is called tree; its fields are label"
    refused(lambda folder: write_ply(folder / "a.ply", {"label": LABELS}), message, tmp_path / "other", label="tree")


def test_labels_that_are_no_codes_are_refused(tmp_path):
    message = r"a\.ply: field:label has the value 0\.5; labels are whole numbers"
    refused(lambda folder: write_ply(folder / "a.ply", {"label": LABELS / 2 + 0.5}), message, tmp_path / "fractions")
    message = r"a\.npz: field:label has the value 4\.29.*e\+09; labels are whole numbers of up to 16,777,216"
    arrays = {"points": PLACES, "label": LABELS + 2**32 - 9}
    refused(lambda folder: write_npz(folder / "a.npz", **arrays), message, tmp_path / "instances")
    message = (
        r"a\.las: it has the labels 0, 1, and .*classes\.txt has 2, 5, 6\. List them in a classes\.txt, such as `0 ignored`"
    )
    refused(lambda folder: write_las(folder / "a.las"), message, tmp_path / "codes", "2 ground\n5 plants\n6 building")


def test_a_label_of_the_test_split_alone_is_told(tmp_path):
    write_ply(tmp_path / "train" / "a.ply", {"label": np.minimum(LABELS, 3)})
    write_ply(tmp_path / "test" / "b.ply", {"label": LABELS})
    _, test = load_scans(tmp_path)
    with pytest.raises(InvalidInputError, match=r"b\.ply: it has the labels 7, and .* has 0, 3\."):
        check_scenes(test)


def test_splits_and_files_that_are_missing_are_told_and_other_files_counted(tmp_path):
    with pytest.raises(NotFoundError, match=r"no such folder.*train and test \(or val\)"):
        load_scenes(f"scans:{tmp_path / 'none'}")
    write_ply(tmp_path / "train" / "a.ply", {"label": LABELS})
    with pytest.raises(NotFoundError, match="no folder test or val or validation"):
        load_scans(tmp_path)
    with pytest.raises(NotFoundError, match="no folder 2024"):
        load_scans(tmp_path, test="2024")
    (tmp_path / "test").mkdir()
    with pytest.raises(InvalidInputError, match=r"test: it has no file of \.ply"):
        load_scans(tmp_path)
    write_ply(tmp_path / "test" / "a.ply", {"label": LABELS})
    for name in ("notes.docx", "a.ply.md5", ".hidden.ply"):
        (tmp_path / "train" / name).write_text("no cloud")
    with pytest.warns(UserWarning, match=r"train: 2 files such as 'a\.ply\.md5' are no clouds and are left out"):
        train, _ = load_scans(tmp_path)
    assert train.names == ("train/a.ply",)
    with pytest.warns(UserWarning, match="2 files"), pytest.raises(NotFoundError, match=r"other\.txt: no such file"):
        load_scans(tmp_path, classes="other.txt")


def test_scenes_without_any_class_are_found_before_a_training(tmp_path):
    write_ply(tmp_path / "train" / "a.ply", {"label": LABELS})
    write_ply(tmp_path / "test" / "b.ply", {"label": np.full(6, -1)})
    _, test = load_scans(tmp_path)
    with pytest.raises(InvalidInputError, match=r"No point of the scenes, such as 'test/b\.ply', has a class"):
        check_scenes(test)


def test_texts_are_scenes_by_the_columns_that_are_named_or_by_their_header(tmp_path):
    rows = np.column_stack([PLACES, np.arange(6) / 4, LABELS])
    for split, header in (("train", ""), ("test", "//X Y Z Intensity Scalar_Label")):
        (tmp_path / split).mkdir()
        np.savetxt(tmp_path / split / "a.txt", rows, "%.10g", header=header, comments="")
    train, _ = load_scenes(f"scans:{tmp_path},columns=x,y,z,intensity,class,label=class")
    scene = train.scene(0)
    assert np.array_equal(scene["points"], PLACES)
    assert scene["labels"].tolist() == [0, 2, 2, 1, 0, 1]
    assert scene["intensity"].ravel().tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25], "floats as the file has them"
    (tmp_path / "test").rename(tmp_path / "val")
    shutil.copytree(tmp_path / "val", tmp_path / "train", dirs_exist_ok=True)
    train, test = load_scenes(f"scans:{tmp_path}")
    for scene in (train.scene(0), test.scene(0)):
        assert scene["labels"].tolist() == [0, 2, 2, 1, 0, 1]


def test_points_without_coordinates_go_with_their_labels(tmp_path):
    places = np.where(np.arange(6)[:, None] == 2, np.nan, PLACES)
    for split in ("train", "test"):
        write_npz(tmp_path / split / "a.npz", points=places, label=np.arange(6) % 3)
    with pytest.warns(UserWarning, match=r"a\.npz: 1 point.* coordinates"):
        train, _ = load_scans(tmp_path)
    with pytest.warns(UserWarning, match=r"a\.npz: 1 point.* coordinates"):
        scene = train.scene(0)
    assert np.array_equal(scene["points"], PLACES[[0, 1, 3, 4, 5]])
    assert scene["labels"].tolist() == [0, 1, 0, 1, 2]
