"""ScanObjectNN in files of the official layout: which file each variant reads, and every fault by name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.data.sets import scanobjectnn
from i2p_zoo.data.sets.scanobjectnn import CLASSES, VARIANTS, load_scanobjectnn
from i2p_zoo.errors import NotFoundError

OFFICIAL = "bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet".split()
FILES = {
    "hardest": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
    "objects": "main_split_nobg/{}_objectdataset.h5",
    "objects_and_background": "main_split/{}_objectdataset.h5",
}


def write_split(path, seed, count, **changes):
    """One official file: clouds away from the origin, of sizes of metres; arrays given as None are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    sizes = random.uniform(0.1, 3, (count, 1, 3))
    points = (random.uniform(0, 1, (count, 2048, 3)) * sizes + 1).astype(np.float32)
    labels = random.integers(0, 15, count)
    arrays = {"data": points, "label": labels, "mask": np.zeros((count, 2048), np.int32), **changes}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return points, labels


@pytest.fixture
def release(tmp_path):
    """All files of the official folder, each with other clouds: the folder, and what each holds."""
    written = {}
    for seed, (variant, name) in enumerate(FILES.items()):
        for count, split in ((4, "training"), (2, "test")):
            path = tmp_path / "h5_files" / name.format(split)
            written[variant, split] = write_split(path, seed * 10 + count, count)
    return tmp_path, written


@pytest.fixture(autouse=True)
def small_release(monkeypatch):
    """The counts of the files that these tests write, in place of the official ones."""
    small = {variant: (folder, ending, (4, 2)) for variant, (folder, ending, _) in VARIANTS.items()}
    monkeypatch.setattr(scanobjectnn, "VARIANTS", small)


def test_official_classes_and_counts_are_these():
    assert list(CLASSES) == OFFICIAL
    assert {variant: counts for variant, (_, _, counts) in VARIANTS.items()} == {
        "hardest": (11416, 2882),
        "objects": (2309, 581),
        "objects_and_background": (2309, 581),
    }


@pytest.mark.parametrize("inside", [False, True], ids=["its parent", "h5_files"])
@pytest.mark.parametrize("variant", FILES)
def test_each_variant_reads_its_own_files(release, variant, inside):
    folder, written = release
    splits = load_scanobjectnn(str(folder / "h5_files" if inside else folder), variant)
    for found, split in zip(splits, ("training", "test"), strict=True):
        points, labels = written[variant, split]
        centred = points - points.mean(1, keepdims=True, dtype=np.float64)
        expected = centred / np.linalg.norm(centred, axis=2).max(1)[:, None, None]
        assert found.classes == CLASSES
        assert found.labels.tolist() == labels.tolist()
        assert found.labels.dtype == np.int64
        assert found.points.dtype == np.float32
        assert np.allclose(found.points, expected, atol=1e-6)
        assert found.normals is None


def test_the_hardest_variant_is_the_default(release):
    folder, _ = release
    default, hardest = load_scanobjectnn(folder), load_scanobjectnn(folder, "hardest")
    assert all(np.array_equal(a.points, b.points) for a, b in zip(default, hardest, strict=True))


def with_nan(points):
    points = points.copy()
    points[2, 7, 1] = np.nan
    return points


MALFORMED = {
    "no data": ({"data": None}, r"lacks the arrays \['data'\]"),
    "no label": ({"label": None}, r"lacks the arrays \['label'\]"),
    "a label beyond": ({"label": np.array([0, 15, 2, 3])}, "0 to 14; found 0 to 15"),
    "a negative label": ({"label": np.array([0, -1, 2, 3])}, "found -1 to 3"),
    "too few labels": ({"label": np.arange(3)}, r"\(3,\)"),
    "fewer points": ({"data": np.zeros((4, 1024, 3))}, r"\(4, 1024, 3\)"),
    "nan": ({"data": with_nan(np.ones((4, 2048, 3)))}, "cloud 2 have values that are NaN"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_arrays_that_do_not_fit_are_refused_by_file_and_fault(release, changes, message):
    folder, _ = release
    path = folder / "h5_files" / FILES["hardest"].format("training")
    write_split(path, 0, 4, **changes)
    with pytest.raises(InvalidInputError, match=rf"(?s){path.name}.*{message}"):
        load_scanobjectnn(folder)


def test_a_file_that_is_cut_short_is_named(release):
    folder, _ = release
    path = folder / "h5_files" / FILES["hardest"].format("test")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InvalidInputError, match=f"{path.name} cannot be read"):
        load_scanobjectnn(folder)


def test_another_count_is_refused_unless_the_check_is_off(release):
    folder, _ = release
    write_split(folder / "h5_files" / FILES["objects"].format("training"), 0, 3)
    with pytest.raises(InvalidInputError, match=r"main_split_nobg: expected 4 .* 2 .*found 3 and 2"):
        load_scanobjectnn(folder, "objects")
    assert [len(split) for split in load_scanobjectnn(folder, "objects", check=False)] == [3, 2]


def test_a_missing_file_is_named(release):
    folder, _ = release
    path = folder / "h5_files" / FILES["hardest"].format("test")
    path.unlink()
    with pytest.raises(NotFoundError, match=path.name):
        load_scanobjectnn(folder)


def test_folders_with_nothing_of_it_say_where_it_is_available(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFoundError, match="project page at HKUST"):
            load_scanobjectnn(folder)


def test_an_unknown_variant_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InvalidInputError, match=r"'hard'.*hardest, objects, objects_and_background"):
        load_scanobjectnn(tmp_path, "hard")
