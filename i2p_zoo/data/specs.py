"""Data sets by a short text, as the command line takes them: `modelnet40:DIR`, `folder:DIR` and so on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.sets.folders import load_folder
from i2p_zoo.data.sets.modelnet40 import load_modelnet40
from i2p_zoo.data.sets.npz import load_npz
from i2p_zoo.data.sets.scanobjectnn import load_scanobjectnn
from i2p_zoo.data.sets.shapenet55 import load_shapenet55
from i2p_zoo.errors import InvalidInputError, NotFoundError

Split = TypeVar("Split", CloudSet, SceneSet)

_LOADERS: dict[str, Callable[[Path], tuple[CloudSet, CloudSet]]] = {
    "modelnet40": load_modelnet40,
    "scanobjectnn": load_scanobjectnn,
    "scanobjectnn-objects": lambda path: load_scanobjectnn(path, "objects"),
    "scanobjectnn-background": lambda path: load_scanobjectnn(path, "objects_and_background"),
    "shapenet55": load_shapenet55,
    "npz": load_npz,
    "folder": load_folder,
}
_EXAMPLES = (
    "modelnet40:data/modelnet40_ply_hdf5_2048 (or the folder of Princeton's OFF meshes), scanobjectnn:data/h5_files (its "
    "hardest variant), scanobjectnn-objects:data/h5_files, scanobjectnn-background:data/h5_files, "
    "shapenet55:data/ShapeNet55-34, npz:clouds.npz, folder:my_objects (a sub-folder of clouds or meshes for each class), "
    "kicad-mini"
)
_KICAD = Path("tests", "data", "kicad-mini.npz")


def load_data(spec: str) -> tuple[CloudSet, CloudSet]:
    """Loads a data set that a text names.

    Args:
        spec: a name and, after a colon, a folder or file: `modelnet40:DIR`, `scanobjectnn:DIR`,
            `scanobjectnn-objects:DIR`, `scanobjectnn-background:DIR`, `shapenet55:DIR`, `npz:FILE`, `folder:DIR`; or
            `kicad-mini`, which the repository carries.

    Returns:
        The train split, which has a cloud of every class, and the test split.

    Raises:
        NotFoundError: the folder or file is missing; the message says where the data set is available.
        InvalidInputError: an unknown name, data that cannot be read, an empty split, or a class without a training cloud.
        MissingExtraError: a library of the format is not installed.

    Example:
        >>> train, test = load_data("kicad-mini")
        >>> len(train), len(test), len(train.classes)
        (400, 199, 10)
    """
    if spec == "kicad-mini":
        return load_npz(_find_kicad())
    splits = load_splits(spec, _LOADERS, "clouds", _EXAMPLES)
    train = splits[0]
    counts = np.bincount(train.hard_labels(), minlength=len(train.classes))
    bare = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if bare:
        raise InvalidInputError(f"{spec}: no training cloud of the classes {bare}; every class needs one.")
    return splits


def load_splits(
    spec: str, loaders: Mapping[str, Callable[..., tuple[Split, Split]]], noun: str, examples: str, **options: Any
) -> tuple[Split, Split]:
    """Loads a text such as `modelnet40:DIR` by the loader of the name before the colon; neither split may be empty.

    Args:
        spec: the text.
        loaders: by name, functions of the path after the colon.
        noun: what the data set has, for the errors.
        examples: texts for each loader, for the error.
        options: of the loader.

    Raises:
        InvalidInputError: an unknown name, no path, or an empty split; or as the loader.
    """
    name, _, place = spec.partition(":")
    if name not in loaders or not place:
        raise InvalidInputError(f"Unknown data set of {noun} {spec!r}; expected one such as: {examples}.")
    splits = loaders[name](Path(place).expanduser(), **options)
    for name, split in zip(("train", "test"), splits, strict=True):
        if not len(split):
            raise InvalidInputError(f"{spec}: the {name} split has no {noun}.")
    return splits


def _find_kicad() -> Path:
    places = [root / _KICAD for root in (Path(__file__).parents[2], Path.cwd())]
    for path in places:
        if path.is_file():
            return path
    raise NotFoundError(
        f"kicad-mini is neither {places[0]} nor {places[1]}: it comes with the source repository of i2p-zoo, not with the "
        f"installed package. Run in a checkout, or give the file as npz:PATH/{_KICAD.name}."
    )
