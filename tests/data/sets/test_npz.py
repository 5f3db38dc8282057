"""Labelled clouds in one file: the splits that it divides them into, and what it must hold."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import load_npz
from i2p_zoo.errors import NotFoundError

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


def test_kicad_mini_lies_within_the_unit_sphere_up_to_half_precision(kicad):
    for clouds in kicad:
        norms = np.linalg.norm(clouds.points, axis=2).max(1)
        assert clouds.points.shape[1:] == (1024, 3)
        assert clouds.points.dtype == np.float32
        assert clouds.labels.dtype == np.int64
        assert norms.max() <= 1 + 1e-3
        assert norms.min() > 0.8, "each cloud is scaled by its own size"


def test_splits_keep_the_files_order_and_scale(tmp_path):
    points = np.random.default_rng(1).normal(size=(6, 4, 3)).astype(np.float32)
    scale = np.array([10, 20, 30, 40, 50, 60], np.float32)
    train, test = load_npz(write_npz(tmp_path / "a.npz", points=points, scale=scale))
    assert train.labels.tolist() == [0, 2, 0, 2]
    assert test.labels.tolist() == [1, 1]
    assert train.classes == ("a", "b", "c")
    assert np.allclose(train.points, [points[0] / 10, points[2] / 30, points[3] / 40, points[5] / 60], rtol=1e-6)
    assert np.allclose(test.points, [points[1] / 20, points[4] / 50], rtol=1e-6)


def test_without_a_scale_the_farthest_point_of_each_cloud_lies_on_the_sphere(tmp_path):
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
