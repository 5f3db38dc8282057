"""Data sets of clouds and of scenes by a text: which loader it reaches, and what every one must have."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data import CloudSet, load_npz, specs
from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.specs import load_data, load_scenes
from i2p_zoo.errors import NotFoundError

KICAD = Path(__file__).with_name("kicad-mini.npz")
KINDS = "modelnet40 scanobjectnn scanobjectnn-objects scanobjectnn-background shapenet55 npz folder".split()


def clouds(labels, classes=("cat", "dog")):
    return CloudSet(np.zeros((len(labels), 4, 3), np.float32), np.array(labels, np.int64), classes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_before_the_colon_chooses_the_loader_of_the_path_behind_it(monkeypatch, kind):
    taken = []
    splits = clouds([0, 1]), clouds([0])
    monkeypatch.setitem(specs._CLOUD_LOADERS, kind, lambda path: taken.append(path) or splits)
    assert load_data(f"{kind}:some folder/with:colon") is splits
    assert taken == [Path("some folder/with:colon")]


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFoundError) as caught:
        load_data("npz:~/none.npz")
    assert str(tmp_path / "none.npz") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("scanobjectnn", None),
        ("scanobjectnn-objects", "objects"),
        ("scanobjectnn-background", "objects_and_background"),
    ],
)
def test_scanobjectnn_has_a_kind_for_each_variant(tmp_path, kind, variant):
    (tmp_path / "main_split").mkdir()
    (tmp_path / "main_split_nobg").mkdir()
    names = {
        None: "main_split/training_objectdataset_augmentedrot_scale75.h5",
        "objects": "main_split_nobg/training_objectdataset.h5",
        "objects_and_background": "main_split/training_objectdataset.h5",
    }
    with pytest.raises(NotFoundError) as caught:
        load_data(f"{kind}:{tmp_path}")
    assert str(tmp_path / names[variant]) in str(caught.value)


def test_an_npz_file_is_loaded_as_by_its_own_function():
    for found, expected in zip(load_data(f"npz:{KICAD}"), load_npz(KICAD), strict=True):
        assert np.array_equal(found.points, expected.points)
        assert found.labels.tolist() == expected.labels.tolist()


def test_kicad_mini_is_fetched_where_there_is_no_checkout_and_must_be_the_same(hub, client, monkeypatch, tmp_path):
    def fetch(repo, names, options, tried, repo_type):
        outcome = client.fetch(repo, *names, repo_type=repo_type)
        return outcome.commit, [Path(path) for path in outcome.paths]

    monkeypatch.setattr(specs, "__file__", str(tmp_path / "site-packages" / "i2p_zoo" / "data" / "specs.py"))
    monkeypatch.setattr(specs, "fetch_files", fetch)
    monkeypatch.chdir(tmp_path)
    repository = hub.add("i2p-zoo/kicad-mini", {"kicad-mini.npz": KICAD.read_bytes()}, dataset=True)
    assert [len(split) for split in load_data("kicad-mini")] == [400, 199]
    repository.commit({"kicad-mini.npz": b"others"})
    with pytest.raises(InvalidInputError, match=r"i2p-zoo/kicad-mini on the Hub.*has sha256"):
        load_data("kicad-mini")


def test_kicad_mini_is_that_of_the_checkout_or_of_the_current_folder(monkeypatch, tmp_path):
    assert [len(split) for split in load_data("kicad-mini")] == [400, 199]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(specs, "__file__", str(tmp_path / "site-packages" / "i2p_zoo" / "data" / "specs.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match=r"site-packages/tests.*not fetched.*offline.*npz:PATH/kicad-mini\.npz"):
        load_data("kicad-mini")
    (tmp_path / "tests" / "data").mkdir(parents=True)
    shutil.copy(KICAD, tmp_path / "tests" / "data")
    assert [len(split) for split in load_data("kicad-mini")] == [400, 199]


UNKNOWN = ["", "imagenet:data", "modelnet40", "npz:", ":data", "/data/modelnet40", "kicad-mini:x", "NPZ:x"]


@pytest.mark.parametrize("spec", UNKNOWN)
def test_an_unknown_text_is_quoted_with_an_example_of_each_kind(spec):
    with pytest.raises(InvalidInputError) as caught:
        load_data(spec)
    message = str(caught.value)
    assert f"Unknown data set of clouds {spec!r}" in message
    assert all(f"{kind}:" in message for kind in KINDS)
    assert "kicad-mini" in message


SOURCES = {
    "modelnet40": "PointNet's modelnet40_ply_hdf5_2048.*Princeton",
    "scanobjectnn": "project page at HKUST",
    "scanobjectnn-objects": "project page at HKUST",
    "scanobjectnn-background": "project page at HKUST",
    "shapenet55": "Point-BERT's repository",
    "npz": r"kicad-mini\.npz",
    "folder": "sub-folder of clouds or meshes for each class",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_place_is_named_with_where_the_data_are_available(tmp_path, kind):
    with pytest.raises(NotFoundError, match=SOURCES[kind]) as caught:
        load_data(f"{kind}:{tmp_path / 'none'}")
    assert str(tmp_path / "none") in str(caught.value)


INCOMPLETE = {
    "no training clouds": (([], [0]), "the train split has no clouds"),
    "no test clouds": (([0, 1], []), "the test split has no clouds"),
    "a class to test on alone": (([0, 0], [0, 1]), r"no training cloud of the classes dog;"),
    "a class without a cloud": (([1], [1]), r"classes cat;"),
}


@pytest.mark.parametrize(("labels", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_every_data_set_must_have_is_checked(monkeypatch, labels, message):
    monkeypatch.setitem(specs._CLOUD_LOADERS, "npz", lambda path: tuple(clouds(split) for split in labels))
    with pytest.raises(InvalidInputError, match=rf"npz:a\.npz: .*{message}"):
        load_data("npz:a.npz")


def test_a_folder_of_meshes_is_loaded_from_end_to_end(tmp_path):
    for split in ("train", "test"):
        for name, height in (("flat", 0), ("steep", 9)):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.off").write_text(f"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 {height}\n3 0 1 2\n")
    train, test = load_data(f"folder:{tmp_path}")
    assert train.classes == ("flat", "steep")
    assert train.points.shape == test.points.shape == train.normals.shape == (2, 2048, 3)
    assert np.allclose(np.abs(train.normals[0]), [0, 0, 1])


SCENE_SOURCES = {
    "s3dis": "building parser",
    "semantickitti": r"semantic-kitti\.org",
    "scannet": "its authors' page",
    "scenes": r"boards\.npz",
    "parts": r"kicad-parts\.npz",
    "scans": r"folders train and test \(or val\)",
}


def scenes(count):
    return SceneSet(("hall",) * count, ("floor",), lambda number: {})


@pytest.mark.parametrize("kind", SCENE_SOURCES)
def test_the_text_before_the_colon_chooses_the_loader_of_scenes(monkeypatch, kind):
    taken = []
    splits = scenes(2), scenes(1)
    monkeypatch.setitem(specs._SCENE_LOADERS, kind, lambda path: taken.append(path) or splits)
    assert load_scenes(f"{kind}:some folder/with:colon") is splits
    assert taken == [Path("some folder/with:colon")]


@pytest.mark.parametrize("kind", SCENE_SOURCES)
def test_a_missing_place_of_scenes_is_named_with_where_the_data_are_available(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match=SCENE_SOURCES[kind]) as caught:
        load_scenes(f"{kind}:~/none")
    assert str(tmp_path / "none") in str(caught.value)


@pytest.mark.parametrize("spec", ["", "s3dis", "s3dis:", ":data", "S3DIS:data", "modelnet40:data", "boards.npz"])
def test_an_unknown_text_of_scenes_is_quoted_with_an_example_of_each_kind(spec):
    with pytest.raises(InvalidInputError) as caught:
        load_scenes(spec)
    assert f"Unknown data set of scenes {spec!r}" in str(caught.value)
    assert all(f"{kind}:" in str(caught.value) for kind in SCENE_SOURCES)


@pytest.mark.parametrize(("counts", "name"), [((0, 1), "train"), ((1, 0), "test")])
def test_a_split_without_scenes_is_refused(monkeypatch, counts, name):
    monkeypatch.setitem(specs._SCENE_LOADERS, "scenes", lambda path: tuple(map(scenes, counts)))
    with pytest.raises(InvalidInputError, match=rf"scenes:a\.npz: the {name} split has no scenes"):
        load_scenes("scenes:a.npz")


def test_objects_in_parts_are_loaded_with_coarse_parts(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        points=np.array([[[0, 0, 5], [4, 0, 5]]] * 2, np.float16),
        scale=np.full(2, 7, np.float32),
        part=np.full((2, 2), 2, np.uint8),
        parts=np.array(["dark", "light", "gold"]),
        coarse_of_part=np.array([0, 0, 1]),
        coarse_parts=np.array(["body", "metal"]),
        split=np.array([0, 1]),
    )
    _, test = load_scenes(f"parts:{tmp_path / 'a.npz'}")
    assert test.classes == ("body", "metal")
    assert test.scene(0)["points"].tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert test.scene(0)["labels"].tolist() == [1] * 2


def test_options_follow_the_path(monkeypatch, tmp_path):
    taken = []
    splits = clouds([0, 1]), clouds([0])
    monkeypatch.setitem(specs._CLOUD_LOADERS, "folder", lambda path, **options: taken.append((path, options)) or splits)
    load_data("folder:my,objects,columns=x,y,z,nx,ny,nz,test=val")
    assert taken == [(Path("my,objects"), {"columns": "x,y,z,nx,ny,nz", "test": "val"})]
    odd = tmp_path / "a,columns=4"
    odd.mkdir()
    load_data(f"folder:{odd}")
    assert taken[1] == (odd, {}), "a path that exists is taken as it is"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:a,colums=5", "folder takes columns and test, once each; got 'colums'"),
        ("folder:a,columns=5,columns=4", "once each; got 'columns'"),
        ("modelnet40:a,columns=5", "modelnet40 takes no options; got 'columns'"),
    ],
)
def test_options_that_a_data_set_does_not_take_are_refused(spec, message):
    with pytest.raises(InvalidInputError, match=message):
        load_data(spec)


@pytest.mark.parametrize("name", ["parts", "C:\\parts"])
def test_a_path_alone_is_asked_about_with_the_name_before_it(tmp_path, monkeypatch, name):
    """Also one with a colon of its own, as Windows' drives have."""
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    for load, kind in ((load_data, "folder"), (load_scenes, "scans")):
        with pytest.raises(InvalidInputError) as caught:
            load(name)
        assert f" Did you mean {kind}:{name}? " in str(caught.value)
