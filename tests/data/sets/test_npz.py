"""Labelled clouds and scenes in one file: its splits, units, coarse classes and colours, and what it must hold."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import load_npz, read_cloud
from i2p_zoo.data.scenes import hold_out_scenes
from i2p_zoo.data.sets.npz import load_scene_npz
from i2p_zoo.errors import NotFoundError
from i2p_zoo.experiments.classification import normalize

KICAD = Path(__file__).parents[1] / "kicad-mini.npz"
KICAD_CLASSES = (
    "Capacitor_Axial Connector_Dsub Connector_JST Inductor_Radial LED_THT Package_DIP Package_SO Package_TO_SOT_THT "
    "PinHeader_Vertical Switch_DIP"
).split()


def write_npz(path, **changes):
    """A good file of 6 clouds in 3 classes, with arrays changed, added, or left out where None."""
    arrays = {
        "points": np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float16),
        "label": np.array([0, 1, 2, 0, 1, 2], np.int16),
        "split": np.array([0, 1, 0, 0, 1, 0], np.uint8),
        "classes": np.array(["a", "b", "c"]),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def kicad():
    return load_npz(KICAD)


def test_kicad_mini_has_the_clouds_that_its_readme_counts(kicad):
    train, test = kicad
    assert (len(train), len(test)) == (400, 199)
    assert list(train.classes) == list(test.classes) == KICAD_CLASSES
    assert np.bincount(train.labels).tolist() == [40] * 10
    assert np.bincount(test.labels).tolist() == [20] * 4 + [19] + [20] * 5


def test_kicad_mini_is_centred_and_reaches_the_unit_sphere(kicad):
    for clouds in kicad:
        norms = np.linalg.norm(clouds.points, axis=2).max(1)
        assert clouds.points.shape[1:] == (1024, 3)
        assert clouds.points.dtype == np.float32
        assert clouds.labels.dtype == np.int64
        assert np.allclose(norms, 1, rtol=1e-6), "each cloud is scaled by its own size"
        assert np.abs(clouds.points.mean(1)).max() < 1e-5


def unit_sphere(cloud):
    """A cloud about its mean, the farthest point at 1, in numpy's widest float."""
    centred = cloud.astype(np.longdouble) - cloud.astype(np.longdouble).mean(0)
    return centred / np.sqrt((centred**2).sum(1).max())


@pytest.mark.parametrize("offset", [(0, 0, 0), (3, -40, 7), (500_000, 5_400_000, 300)], ids=["near", "off", "UTM"])
def test_splits_keep_the_files_order_and_every_cloud_its_shape_wherever_it_lies(tmp_path, offset):
    points = np.random.default_rng(1).normal(size=(6, 4, 3)) + offset
    scale = np.array([10, 20, 30, 40, 50, 60], np.float32)
    train, test = load_npz(write_npz(tmp_path / "a.npz", points=points, scale=scale))
    assert train.labels.tolist() == [0, 2, 0, 2]
    assert test.labels.tolist() == [1, 1]
    assert train.classes == ("a", "b", "c")
    expected = np.stack([unit_sphere(cloud) for cloud in points]).astype(np.float64)
    assert np.allclose(train.points, expected[[0, 2, 3, 5]], rtol=0, atol=1e-6)
    assert np.allclose(test.points, expected[[1, 4]], rtol=0, atol=1e-6)
    assert train.normalization == test.normalization == "unit_sphere"


def test_a_file_of_clouds_gives_what_predict_sees_of_each_of_them(tmp_path):
    points = (np.random.default_rng(1).normal(size=(6, 4, 3)) + 1000).astype(np.float32)
    _, test = load_npz(write_npz(tmp_path / "a.npz", points=points))
    np.save(tmp_path / "cloud.npy", points[1])
    assert np.array_equal(normalize(read_cloud(tmp_path / "cloud.npy"))["points"], test.points[0])


def test_the_farthest_point_of_each_cloud_lies_on_the_sphere(tmp_path):
    for clouds in load_npz(str(write_npz(tmp_path / "a.npz"))):
        assert np.allclose(np.linalg.norm(clouds.points, axis=2).max(1), 1, rtol=1e-6)


def test_a_cloud_of_zeros_stays_finite(tmp_path):
    train, _ = load_npz(write_npz(tmp_path / "a.npz", points=np.zeros((6, 4, 3))))
    assert np.array_equal(train.points, np.zeros((4, 4, 3)))


MALFORMED = {
    "no points": ({"points": None}, r"lacks.*'points'"),
    "no label": ({"label": None}, r"lacks.*'label'"),
    "no split": ({"split": None}, r"lacks.*'split'"),
    "no classes": ({"classes": None}, r"lacks.*'classes'"),
    "nothing that is needed": (dict.fromkeys(("points", "label", "split", "classes")) | {"other": np.ones(2)}, "lacks.*other"),
    "flat points": ({"points": np.zeros((6, 12))}, r"\(6, 12\)"),
    "points of four columns": ({"points": np.zeros((6, 4, 4))}, r"\(6, 4, 4\)"),
    "clouds without a point": ({"points": np.zeros((6, 0, 3))}, r"\(6, 0, 3\)"),
    "points of text": ({"points": np.full((6, 4, 3), "a")}, "points"),
    "too few labels": ({"label": np.zeros(5, int)}, r"\(5,\)"),
    "labels in a column": ({"label": np.zeros((6, 1), int)}, r"\(6, 1\)"),
    "fractional labels": ({"label": np.full(6, 0.5)}, "label"),
    "too long a split": ({"split": np.zeros(7, int)}, r"\(7,\)"),
    "a negative label": ({"label": np.array([0, 1, 2, -1, 1, 2])}, r"-1 to 2 for 3 classes"),
    "a label beyond the classes": ({"label": np.array([0, 1, 3, 0, 1, 2])}, r"0 to 3 for 3 classes"),
    "one name for all classes": ({"classes": np.array("a")}, "classes"),
    "too few scales": ({"scale": np.ones(5)}, "scale"),
    "a scale of zero": ({"scale": np.zeros(6)}, "scale"),
    "a third split": ({"split": np.array([0, 0, 1, 1, 2, 2])}, "split must be 0 for train or 1 for test"),
    "colours of two bytes": ({"colors": np.zeros((6, 4, 3), np.int16)}, "colors must be uint8; found int16"),
    "normals of two bytes": ({"normals": np.zeros((6, 4, 3), np.int16)}, "normals must be int8 or floats"),
    "an infinite scale": ({"scale": np.full(6, np.inf)}, "scale must be positive and finite; found inf"),
    "a scale beyond float32": ({"scale": np.full(6, 1e39)}, "scale must be positive and finite"),
    "a scale of text": ({"scale": np.full(6, "a")}, "scale must be floats or integers"),
    "a scale that is no number": ({"scale": np.full(6, np.nan)}, "scale"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_arrays_that_do_not_fit_are_refused_by_file_and_fault(tmp_path, changes, message):
    with pytest.raises(InvalidInputError, match=rf"(?s)bad\.npz.*{message}"):
        load_npz(write_npz(tmp_path / "bad.npz", **changes))


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["points", "label", "classes", "scale"])
def test_pickled_arrays_are_refused_and_never_run(tmp_path, name):
    bomb = np.array([Bomb(tmp_path / "exploded")] * 6, dtype=object)
    with pytest.raises(InvalidInputError, match=r"bad\.npz"):
        load_npz(write_npz(tmp_path / "bad.npz", **{name: bomb}))
    assert not (tmp_path / "exploded").exists()


def damage(path, kind):
    whole = write_npz(path).read_bytes()
    if kind == "a bare array":
        with path.open("wb") as file:
            np.save(file, np.zeros((6, 4, 3)))
        return
    middle = whole.index(b"NUMPY") + 150  # in the values of the first array
    content = {
        "text": b"x,y,z\n1,2,3\n",
        "empty": b"",
        "a pickle": pickle.dumps({"points": [1.0]}),
        "cut in the middle": whole[: len(whole) // 2],
        "cut after two bytes": whole[:2],
        "cut before its end": whole[:-10],
        "a changed byte": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "text",
        "empty",
        "a pickle",
        "a bare array",
        "cut in the middle",
        "cut after two bytes",
        "cut before its end",
        "a changed byte",
    ],
)
def test_a_file_that_is_no_whole_npz_is_refused(tmp_path, kind):
    damage(tmp_path / "bad.npz", kind)
    with pytest.raises(InvalidInputError, match=r"bad\.npz cannot be read"):
        load_npz(tmp_path / "bad.npz")
    gc.collect()  # a file left open warns now, in this test


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(NotFoundError, match="no such file") as caught:
        load_npz(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


RANDOM = np.random.default_rng(0)
NORMALS = RANDOM.integers(-127, 128, (4, 6, 3)).astype(np.int8)
COLORS = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
BOARDS = {
    "points": RANDOM.integers(-20000, 20000, (4, 6, 3)).astype(np.int16),
    "normals": NORMALS,
    "colors": COLORS,
    "label": RANDOM.integers(0, 3, (4, 6)).astype(np.uint8),
    "instance": np.zeros((4, 6), np.uint8),
    "split": np.array([0, 1, 0, 0], np.uint8),
    "classes": np.array(["board", "led", "relay"]),
    "size": np.ones((4, 2), np.float32),
    "instance_names": np.full((4, 60), "Relay/x"),
    "unit": np.float32(0.005),
}
PARTS = {
    "points": RANDOM.normal(size=(4, 6, 3)).astype(np.float16),
    "normals": NORMALS,
    "label": np.array([0, 1, 1, 0], np.int16),
    "split": BOARDS["split"],
    "names": np.array(["A/a", "B/b", "C/c", "D/d"]),
    "family": np.array(["a", "b", "c", "d"]),
    "classes": np.array(["relay", "switch"]),
    "scale": np.array([4, 5, 2, 8], np.float32),
    "part": RANDOM.integers(0, 4, (4, 6)).astype(np.uint8),
    "parts": np.array(["dark", "light", "silver", "other"]),
    "coarse_of_part": np.array([0, 0, 1, 2], np.uint8),
    "coarse_parts": np.array(["body", "metal", "other"]),
}


def write_scenes(path, arrays, **changes):
    np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})
    return path


def test_scenes_are_in_the_unit_of_the_file(tmp_path):
    train, test = load_scene_npz(str(write_scenes(tmp_path / "boards.npz", BOARDS)))
    assert (train.names, test.names) == (("boards 0", "boards 2", "boards 3"), ("boards 1",))
    assert train.classes == test.classes == ("board", "led", "relay")
    for number, row in enumerate((0, 2, 3)):
        scene = train.scene(number)
        assert scene.keys() == {"points", "labels", "normals"}
        assert np.allclose(scene["points"], BOARDS["points"][row] * 0.005, rtol=1e-6)
        directions = NORMALS[row].astype(np.float64)
        assert np.allclose(scene["normals"], directions / np.linalg.norm(directions, axis=1, keepdims=True), atol=1e-6)
        assert scene["labels"].tolist() == BOARDS["label"][row].tolist()


def test_objects_are_scaled_and_their_parts_coarse(tmp_path):
    train, test = load_scene_npz(write_scenes(tmp_path / "parts.npz", PARTS))
    assert (train.names, test.names) == (("A/a", "C/c", "D/d"), ("B/b",))
    assert train.classes == ("body", "metal", "other")
    scene = train.scene(1)
    assert np.allclose(scene["points"], unit_sphere(PARTS["points"][2]).astype(float), rtol=0, atol=1e-6)
    assert scene["labels"].tolist() == [[0, 0, 1, 2][part] for part in PARTS["part"][2]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint16])
def test_points_of_no_class_have_minus_one_whatever_their_type(tmp_path, dtype):
    label = np.array([[0, -1, 2, 1, -1, 0]] * 4).astype(dtype)  # in an unsigned type -1 is its largest number
    for arrays, changes in ((BOARDS, {"label": label}), (PARTS, {"part": label})):
        scene = load_scene_npz(write_scenes(tmp_path / "a.npz", arrays, **changes), coarse=False)[0].scene(0)
        assert scene["labels"].tolist() == [0, -1, 2, 1, -1, 0]
    coarse = load_scene_npz(write_scenes(tmp_path / "a.npz", PARTS, part=label))[0].scene(0)
    assert coarse["labels"].tolist() == [0, -1, 1, 0, -1, 0]


def test_the_largest_number_is_a_class_where_there_are_so_many(tmp_path):
    names = np.array([f"class {number}" for number in range(256)])
    label = np.full((4, 6), 255, np.uint8)
    scenes, _ = load_scene_npz(write_scenes(tmp_path / "a.npz", BOARDS, label=label, classes=names))
    assert set(scenes.scene(0)["labels"].tolist()) == {255}


@pytest.mark.parametrize("changes", [{}, {"coarse_of_part": None, "coarse_parts": None}])
def test_fine_parts_need_no_coarse_ones(tmp_path, changes):
    train, _ = load_scene_npz(write_scenes(tmp_path / "parts.npz", PARTS, **changes), coarse=False)
    assert train.classes == ("dark", "light", "silver", "other")
    assert train.scene(0)["labels"].tolist() == PARTS["part"][0].tolist()


def test_colours_are_given_if_asked_for_and_there(tmp_path):
    path = write_scenes(tmp_path / "boards.npz", BOARDS)
    assert np.array_equal(load_scene_npz(path, colors=True)[1].scene(0)["rgb"], COLORS[1])
    with pytest.raises(InvalidInputError, match=r"parts\.npz: lacks the arrays \['colors'\]"):
        load_scene_npz(write_scenes(tmp_path / "parts.npz", PARTS), colors=True)


def test_normals_may_be_floats_or_missing(tmp_path):
    normals = RANDOM.normal(size=(4, 6, 3))
    scene = load_scene_npz(write_scenes(tmp_path / "a.npz", BOARDS, normals=normals))[1].scene(0)
    assert scene["normals"].dtype == np.float32
    assert np.allclose(scene["normals"], normals[1] / np.linalg.norm(normals[1], axis=1, keepdims=True), atol=1e-6)
    assert "normals" not in load_scene_npz(write_scenes(tmp_path / "a.npz", BOARDS, normals=None))[1].scene(0)


@pytest.mark.parametrize("arrays", [BOARDS, PARTS], ids=["scenes", "parts"])
def test_what_is_done_to_a_scene_leaves_the_next_reading_as_it_was(tmp_path, arrays):
    changes = {"points": arrays["points"].astype(np.float32), "scale": np.ones(4, np.float32), "colors": COLORS}
    changes["normals"] = NORMALS.astype(np.float32)
    train, _ = load_scene_npz(write_scenes(tmp_path / "a.npz", arrays, **changes), colors=True)
    first = {name: values.copy() for name, values in train.scene(0).items()}
    for values in train.scene(0).values():
        values += 1
    for name, values in train.scene(0).items():
        assert np.array_equal(values, first[name])


def test_sets_of_scenes_can_go_to_other_processes(tmp_path):
    _, test = pickle.loads(pickle.dumps(load_scene_npz(write_scenes(tmp_path / "parts.npz", PARTS))))
    assert test.names == ("B/b",)
    assert test.scene(0)["points"].shape == (6, 3)


P, L = BOARDS["points"], BOARDS["label"]
MALFORMED_SCENES = {
    "no unit": (BOARDS, {"unit": None}, r"lacks the arrays \['unit'\]; it has \['classes'"),
    "no labels": (BOARDS, {"label": None, "classes": None}, r"\['classes', 'label'\]"),
    "no coarse parts": (PARTS, {"coarse_of_part": None}, r"\['coarse_of_part'\]"),
    "flat points": (BOARDS, {"points": P[0]}, r"points must be \(clouds, points, 3\).*found \(6, 3\)"),
    "no points": (BOARDS, {"points": P[:, :0]}, r"found \(4, 0, 3\)"),
    "a label each": (BOARDS, {"label": L[:, 0]}, r"\['label'\] do not fit points \(4, 6, 3\)"),
    "units": (BOARDS, {"unit": np.ones(4)}, r"\['unit'\] do not fit"),
    "short normals": (BOARDS, {"normals": NORMALS[:3]}, r"\['normals'\] do not fit"),
    "fewer parts": (PARTS, {"part": PARTS["part"][:, :5]}, r"\['part'\] do not fit"),
    "fewer scales": (PARTS, {"scale": PARTS["scale"][:3]}, r"\['scale'\] do not fit"),
    "fewer names": (PARTS, {"names": PARTS["names"][:3]}, r"\['names'\] do not fit"),
    "one split": (BOARDS, {"split": np.uint8(0)}, r"\['split'\] do not fit"),
    "classes in a square": (BOARDS, {"classes": BOARDS["classes"][None]}, r"\['classes'\] do not fit"),
    "a label beyond": (BOARDS, {"label": L + 1}, "label runs from 1 to 3 for 3 classes"),
    "a part below": (PARTS, {"part": PARTS["part"].astype(int) - 2}, "part runs from -2 to 1 for 4"),
    "a coarse part beyond": (PARTS, {"coarse_of_part": np.array([0, 1, 2, 3])}, "coarse_of_part runs from 0 to 3 for 3"),
    "fewer coarse parts": (
        PARTS,
        {"coarse_of_part": np.array([0, 1])},
        r"coarse_of_part must be \(4,\).*found \(2,\)",
    ),
    "text": (BOARDS, {"points": P.astype(str)}, "points must be floats or integers; found <U"),
    "fractional labels": (BOARDS, {"label": L / 2}, "label must be integers; found float64"),
    "wide normals": (BOARDS, {"normals": NORMALS.astype(np.int16)}, "normals must be int8 or floats; found int16"),
    "no unit at all": (BOARDS, {"unit": np.float32(0)}, "unit must be positive and finite; found 0.0"),
    "a negative scale": (
        PARTS,
        {"scale": np.array([1, 1, -2, 1], np.float32)},
        "scale must be positive and finite; found -2.0",
    ),
    "a third split": (BOARDS, {"split": np.array([0, 1, 2, 0])}, r"split must be 0 for train or 1 for test; found \[0 1 2\]"),
    "one class twice": (BOARDS, {"classes": np.array(["a", "a", "b"])}, "different names"),
    "objects": (BOARDS, {"classes": np.array([1, "a", None], object)}, r"a\.npz cannot be read: ValueError"),
}


@pytest.mark.parametrize(("arrays", "changes", "message"), MALFORMED_SCENES.values(), ids=MALFORMED_SCENES)
def test_arrays_of_scenes_that_do_not_fit_are_refused(tmp_path, arrays, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        load_scene_npz(write_scenes(tmp_path / "a.npz", arrays, **changes))


def test_wide_colours_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="colors must be uint8; found float64"):
        load_scene_npz(write_scenes(tmp_path / "a.npz", BOARDS, colors=COLORS / 255), colors=True)


@pytest.mark.parametrize("keep", [1, 100, -30])
def test_a_file_of_scenes_that_is_cut_short_is_named(tmp_path, keep):
    path = write_scenes(tmp_path / "a.npz", BOARDS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInputError, match=r"a\.npz cannot be read"):
        load_scene_npz(path)


def test_a_family_is_held_out_whole(tmp_path):
    arrays = {**PARTS, "family": np.array(["a", "b", "a", "c"])}
    train = load_scene_npz(write_scenes(tmp_path / "a.npz", arrays))[0]
    assert {part.names for part in hold_out_scenes(train, 0.5)} == {("A/a", "C/c"), ("D/d",)}
    with pytest.raises(InvalidInputError, match=r"\['family'\] do not fit"):
        load_scene_npz(write_scenes(tmp_path / "a.npz", arrays, family=np.array(["a"])))


def test_a_missing_file_of_scenes_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.npz: no such file\. .*boards\.npz or kicad-parts\.npz"):
        load_scene_npz(tmp_path / "none.npz")
