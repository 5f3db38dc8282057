"""Data sets of scenes by a text: which loader it reaches, and what every one must have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import specs
from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.specs import load_scenes
from i2p_zoo.errors import NotFoundError

SOURCES = {
    "s3dis": "building parser",
    "semantickitti": r"semantic-kitti\.org",
    "scannet": "its authors' page",
    "scenes": r"boards\.npz",
    "parts": r"kicad-parts\.npz",
}


def scenes(count):
    return SceneSet(("hall",) * count, ("floor",), lambda number: {})


@pytest.mark.parametrize("kind", SOURCES)
def test_the_text_before_the_colon_chooses_the_loader_of_the_path_behind_it(monkeypatch, kind):
    taken = []
    splits = scenes(2), scenes(1)
    monkeypatch.setitem(specs._SCENE_LOADERS, kind, lambda path: taken.append(path) or splits)
    assert load_scenes(f"{kind}:some folder/with:colon") is splits
    assert taken == [Path("some folder/with:colon")]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_missing_place_is_named_with_where_the_data_are_available(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match=SOURCES[kind]) as caught:
        load_scenes(f"{kind}:~/none")
    assert str(tmp_path / "none") in str(caught.value)


@pytest.mark.parametrize("spec", ["", "s3dis", "s3dis:", ":data", "S3DIS:data", "modelnet40:data", "boards.npz"])
def test_an_unknown_text_is_quoted_with_an_example_of_each_kind(spec):
    with pytest.raises(InvalidInputError) as caught:
        load_scenes(spec)
    assert f"Unknown data set of scenes {spec!r}" in str(caught.value)
    assert all(f"{kind}:" in str(caught.value) for kind in SOURCES)


@pytest.mark.parametrize(("counts", "name"), [((0, 1), "train"), ((1, 0), "test")])
def test_a_split_without_scenes_is_refused(monkeypatch, counts, name):
    monkeypatch.setitem(specs._SCENE_LOADERS, "scenes", lambda path: tuple(map(scenes, counts)))
    with pytest.raises(InvalidInputError, match=rf"scenes:a\.npz: the {name} split has no scenes"):
        load_scenes("scenes:a.npz")


def test_objects_in_parts_are_loaded_with_coarse_parts(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        points=np.ones((2, 5, 3), np.float16),
        scale=np.full(2, 2, np.float32),
        part=np.full((2, 5), 2, np.uint8),
        parts=np.array(["dark", "light", "gold"]),
        coarse_of_part=np.array([0, 0, 1]),
        coarse_parts=np.array(["body", "metal"]),
        split=np.array([0, 1]),
    )
    _, test = load_scenes(f"parts:{tmp_path / 'a.npz'}")
    assert test.classes == ("body", "metal")
    assert test.scene(0)["points"].tolist() == [[0.5, 0.5, 0.5]] * 5
    assert test.scene(0)["labels"].tolist() == [1] * 5
