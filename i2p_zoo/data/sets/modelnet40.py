"""ModelNet40, as PointNet's HDF5 files of 2,048 points a cloud or as Princeton's OFF meshes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.arrays import read_cache, write_cache
from i2p_zoo.data.files.paths import require_folder, sort_paths
from i2p_zoo.data.objects import POINTS, check_counts, read_hdf5, read_objects
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError, NotFoundError

CLASSES = tuple(
    "airplane bathtub bed bench bookshelf bottle bowl car chair cone cup curtain desk door dresser flower_pot glass_box guitar "
    "keyboard lamp laptop mantel monitor night_stand person piano plant radio range_hood sink sofa stairs stool table tent "
    "toilet tv_stand vase wardrobe xbox".split()
)
HDF5_COUNTS = (9840, 2468)  # three training shapes fewer than Princeton's split
MESH_COUNTS = (9843, 2468)
ADVICE = (
    "ModelNet40 is available as PointNet's modelnet40_ply_hdf5_2048, or as the OFF meshes of Princeton's ModelNet project; "
    "give the folder with ply_data_train0.h5, or the one with airplane, bathtub and so on."
)
_CACHE = "i2p-zoo-2048-points.npz"


def load_modelnet40(folder: str | os.PathLike[str], check: bool = True) -> tuple[CloudSet, CloudSet]:
    """Reads the official split, from whichever of its two releases the folder holds.

    Clouds are centred on their mean and scaled to the unit sphere, which changes those of the HDF5 files by their rounding
    alone. Of meshes 2,048 points each are sampled by area, by a seed that is a hash of the file's name; they have normals. As
    that takes many minutes, the clouds are kept in a file of the folder, for as long as its meshes are the same.

    Args:
        folder: with `ply_data_train0.h5` and so on, or with `airplane/train/*.off` and so on.
        check: whether the number of clouds must be that of the release.

    Returns:
        The train and the test split, (M, 2048, 3), with normals where the release has them.

    Raises:
        NotFoundError: no such folder, none of the two layouts in it, or a file that it lists is missing.
        InvalidInputError: a file that is damaged or does not fit, or another number of clouds.
        MissingExtraError: h5py is not installed.
    """
    folder = require_folder(folder, ADVICE)
    if (folder / "train_files.txt").is_file() or list(folder.glob("ply_data_train*.h5")):
        return _load_hdf5(folder, check)
    if any((folder / name).is_dir() for name in CLASSES):
        return _load_meshes(folder, check)
    raise NotFoundError(f"{folder}: neither ply_data_train0.h5 nor a folder airplane. {ADVICE}")


def _load_hdf5(folder: Path, check: bool) -> tuple[CloudSet, CloudSet]:
    classes, names = CLASSES, folder / "shape_names.txt"
    if names.is_file():
        classes = tuple(names.read_text(encoding="utf-8", errors="replace").split())
        if len(classes) != len(CLASSES):
            raise InvalidInputError(f"{names}: expected the names of {len(CLASSES)} classes; found {len(classes)}.")
    train, test = (dict[str, Any](read_hdf5(_hdf5_files(folder, split), len(CLASSES))) for split in ("train", "test"))
    if check:
        check_counts(folder, (len(train["labels"]), len(test["labels"])), HDF5_COUNTS)
    sets = [CloudSet(classes=classes, normalization=UNIT_SPHERE, **split) for split in (train, test)]
    return sets[0], sets[1]


def _hdf5_files(folder: Path, split: str) -> list[Path]:
    listing = folder / f"{split}_files.txt"
    if listing.is_file():  # its lines are paths from PointNet's own root
        lines = listing.read_text(encoding="utf-8", errors="replace").split()
        paths = [folder / Path(line).name for line in lines]
    else:
        paths = sort_paths(folder.glob(f"ply_data_{split}*.h5"))
    if not paths:
        raise NotFoundError(f"{folder}: no files ply_data_{split}0.h5 and so on. {ADVICE}")
    return paths


def _load_meshes(folder: Path, check: bool) -> tuple[CloudSet, CloudSet]:
    paths = {split: [sort_paths((folder / name / split).glob("[!.]*.off")) for name in CLASSES] for split in ("train", "test")}
    labels = [label for groups in paths.values() for label, group in enumerate(groups) for _ in group]
    train, test = (sum(map(len, groups)) for groups in paths.values())
    if check:
        check_counts(folder, (train, test), MESH_COUNTS)
    files = [path for groups in paths.values() for group in groups for path in group]
    listing = "".join(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n" for path in files)
    fingerprint = hashlib.sha256(f"1\n{listing}".encode()).hexdigest()  # of the method's version and the files
    cached = read_cache(folder / _CACHE, fingerprint, ("points", "normals"))
    objects = cached or read_objects(files, POINTS, "sampling ModelNet40")
    whole = CloudSet(objects["points"], np.array(labels, np.int64), CLASSES, objects["normals"], normalization=UNIT_SPHERE)
    if cached is None:
        arrays = {"points": whole.points, "normals": whole.normals, "label": whole.labels, "classes": CLASSES}
        arrays |= {"split": np.arange(len(whole)) >= train}  # so that `load_npz` reads it too
        write_cache(folder / _CACHE, fingerprint, "the next run samples the meshes again.", **arrays)
    return whole.subset(range(train)), whole.subset(range(train, train + test))
