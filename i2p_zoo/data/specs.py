"""Data sets by a short text, as the command line takes them: `modelnet40:DIR` and so on for clouds, `s3dis:DIR` for scenes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.sets.folders import load_folder, load_unlabelled
from i2p_zoo.data.sets.modelnet40 import load_modelnet40
from i2p_zoo.data.sets.npz import load_npz, load_scene_npz
from i2p_zoo.data.sets.s3dis import load_s3dis
from i2p_zoo.data.sets.scannet import load_scannet
from i2p_zoo.data.sets.scanobjectnn import load_scanobjectnn
from i2p_zoo.data.sets.scans import load_scans
from i2p_zoo.data.sets.semantickitti import load_semantickitti
from i2p_zoo.data.sets.shapenet55 import load_shapenet55
from i2p_zoo.downloading import HubOptions, fetch_files
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.wording import join_words, near_paths, near_words, suggest

Split = TypeVar("Split", CloudSet, SceneSet)

_CLOUD_LOADERS: dict[str, Callable[..., tuple[CloudSet, CloudSet]]] = {
    "modelnet40": load_modelnet40,
    "scanobjectnn": load_scanobjectnn,
    "scanobjectnn-objects": lambda path: load_scanobjectnn(path, "objects"),
    "scanobjectnn-background": lambda path: load_scanobjectnn(path, "objects_and_background"),
    "shapenet55": load_shapenet55,
    "npz": load_npz,
    "folder": load_folder,
}
_CLOUD_EXAMPLES = (
    "modelnet40:data/modelnet40_ply_hdf5_2048 (or the folder of Princeton's OFF meshes), scanobjectnn:data/h5_files (its "
    "hardest variant), scanobjectnn-objects:data/h5_files, scanobjectnn-background:data/h5_files, "
    "shapenet55:data/ShapeNet55-34, npz:clouds.npz, folder:my_objects (a sub-folder of clouds or meshes for each class), "
    "folder:my_objects,columns=x,y,z,nx,ny,nz (of files whose columns have no names), kicad-mini"
)
_SCENE_LOADERS: dict[str, Callable[..., tuple[SceneSet, SceneSet]]] = {
    "s3dis": load_s3dis,
    "semantickitti": load_semantickitti,
    "scannet": load_scannet,
    "scenes": load_scene_npz,
    "parts": load_scene_npz,
    "scans": load_scans,
}
_SCENE_EXAMPLES = (
    "s3dis:data/Stanford3dDataset_v1.2_Aligned_Version (or the folder of Area_1_conferenceRoom_1.npy and so on), "
    "semantickitti:data/semantickitti (which holds dataset/sequences), scannet:data/scannet (which holds scans), "
    "scenes:boards.npz, parts:kicad-parts.npz, scans:my_scans (folders train and test of .las, .ply or .npz with labels)"
)
# What may follow the path of each, as `folder:DIR,columns=5,test=val`.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "folder": ("columns", "test"),
    "unlabelled": ("columns",),
    "scans": ("label", "classes", "test", "columns"),
}
_KICAD = Path("tests", "data", "kicad-mini.npz")
_KICAD_SHA256 = "42963f9b613ee5a74ac06f8ab802f0f10e8065abf06a39f9b6944aa94f755549"


def load_data(spec: str) -> tuple[CloudSet, CloudSet]:
    """Loads a data set that a text names.

    Args:
        spec: a name and, after a colon, a folder or file: `modelnet40:DIR`, `scanobjectnn:DIR`,
            `scanobjectnn-objects:DIR`, `scanobjectnn-background:DIR`, `shapenet55:DIR`, `npz:FILE`, `folder:DIR`; or
            `kicad-mini`, which the repository carries and the Hub has. After the path of a folder its options may follow, as
            `folder:DIR,columns=5,test=val`.

    Returns:
        The train split, which has a cloud of every class, and the test split.

    Raises:
        NotFoundError: the folder or file is missing; the message says where the data set is available.
        HubError, CacheError: `kicad-mini` is not in a checkout, and its download or the client's cache fails.
        InvalidInputError: an unknown name or option, data that cannot be read, an empty split, or a class without a training
            cloud.
        MissingExtraError: a library of the format is not installed.

    Example:
        >>> train, test = load_data("kicad-mini")
        >>> len(train), len(test), len(train.classes)
        (400, 199, 10)
    """
    if spec == "kicad-mini":
        return load_npz(_find_kicad())
    splits = _load_splits(spec, _CLOUD_LOADERS, "clouds", _CLOUD_EXAMPLES)
    train = splits[0]
    counts = np.bincount(train.hard_labels(), minlength=len(train.classes))
    bare = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if bare:
        raise InvalidInputError(f"{spec}: no training cloud of the classes {join_words(bare)}; every class needs one.")
    return splits


def load_unlabelled_data(place: str, classes: tuple[str, ...]) -> CloudSet:
    """Loads the clouds of a folder, which may be of any of the classes.

    Args:
        place: the folder, after which `,columns=...` may follow as after `folder:DIR`.
        classes: that the clouds may have.

    Raises:
        I2PError: as `load_unlabelled`; InvalidInputError for another option.
    """
    path, options = split_options("unlabelled", place)
    return load_unlabelled(path, classes, columns=options.get("columns"))


def load_scenes(spec: str, features: str = "xyz") -> tuple[SceneSet, SceneSet]:
    """Lists the scenes of a data set that a text names.

    Args:
        spec: a name and, after a colon, a folder or file: `s3dis:DIR`, `semantickitti:DIR`, `scannet:DIR`,
            `scenes:FILE.npz`, `parts:FILE.npz` or `scans:DIR`, which takes options:
            `scans:DIR,label=NAME,classes=FILE,test=val,columns=x,y,z,label`.
        features: what will be read: scenes of an .npz file have `rgb` where it stands among them. Others have what their files
            hold.

    Returns:
        The train split and the test split, each of at least one scene: Area 5 of S3DIS, sequence 08 of SemanticKITTI, and
        ScanNet's validation split.

    Raises:
        NotFoundError: the folder or file is missing; the message says where the data set is available.
        InvalidInputError: an unknown name, data that cannot be read, or an empty split.
    """
    is_npz = spec.partition(":")[0] in ("scenes", "parts")
    options = {"colors": True} if is_npz and "rgb" in parse_features(features) else {}
    return _load_splits(spec, _SCENE_LOADERS, "scenes", _SCENE_EXAMPLES, **options)


def _load_splits(
    spec: str, loaders: Mapping[str, Callable[..., tuple[Split, Split]]], noun: str, examples: str, **options: Any
) -> tuple[Split, Split]:
    """Loads a text such as `modelnet40:DIR` by the loader of the name before the colon; neither split may be empty."""
    name, _, place = spec.partition(":")
    if name not in loaders or not place:
        raise InvalidInputError(
            f"Unknown data set of {noun} {spec!r}.{suggest(_near_specs(spec, loaders))} Expected one such as: {examples}."
        )
    path, chosen = split_options(name, place)
    try:
        splits = loaders[name](path, **options, **chosen)
    except NotFoundError as error:
        if path.exists():
            raise
        raise NotFoundError(f"{error}{suggest(near_paths(path))}") from error
    for name, split in zip(("train", "test"), splits, strict=True):
        if not len(split):
            raise InvalidInputError(f"{spec}: the {name} split has no {noun}.")
    return splits


def split_options(name: str, place: str) -> tuple[Path, dict[str, str]]:
    """Divides what follows the colon of a spec into the path and the options behind it, `,NAME=VALUE` each.

    Raises:
        InvalidInputError: an option that such data sets do not take, or one given twice, unless the path exists as it stands.

    Example:
        >>> split_options("folder", "my_objects,columns=x,y,z,test=val")[1]
        {'columns': 'x,y,z', 'test': 'val'}
    """
    path = Path(place).expanduser()
    start, *parts = re.split(r",(?=[a-z_]+=)", place)
    if not parts or path.exists():
        return path, {}
    options = [tuple(part.split("=", 1)) for part in parts]
    known = _OPTIONS.get(name, ())
    strange = [key for key, _ in options if key not in known or [other for other, _ in options].count(key) > 1]
    if strange:
        takes = f"takes {join_words(known)}, once each" if known else "takes no options"
        raise InvalidInputError(f"{name}:{place}: {name} {takes}; got {strange[0]!r}.")
    return Path(start).expanduser(), dict(options)


def _near_specs(spec: str, loaders: Mapping[str, Any]) -> list[str]:
    """Texts that were perhaps meant: with a loader's name that is like the one given, or before a path that has none."""
    path = Path(spec).expanduser()  # which may have a colon itself, as Windows' drives
    if spec and path.is_dir():
        return [f"{near}:{spec}" for near in ("folder", "scans") if near in loaders]
    if path.is_file() and path.suffix == ".npz":
        return [f"{near}:{spec}" for near in ("npz", "scenes") if near in loaders]
    name, colon, place = spec.partition(":")
    if colon:
        return [f"{near}:{place or 'PATH'}" for near in ([name] if name in loaders else near_words(name, loaders))]
    return near_words(spec, ["kicad-mini"] if "npz" in loaders else [])


def _find_kicad() -> Path:
    """Returns the file of kicad-mini: of the checkout, or else from the Hub, byte for byte the same."""
    places = [root / _KICAD for root in (Path(__file__).parents[2], Path.cwd())]
    for path in places:
        if path.is_file():
            return path
    tried: list[str] = []
    repo = f"{os.environ.get('I2P_ZOO_ORG', 'i2p-zoo')}/{_KICAD.stem}"
    fetched = fetch_files(repo, [_KICAD.name], HubOptions(), tried, repo_type="dataset")
    if fetched is None:
        raise NotFoundError(
            f"kicad-mini is neither {places[0]} nor {places[1]}, and not fetched: {tried[0]}. A checkout of i2p-zoo has it; "
            f"give a file in hand as npz:PATH/{_KICAD.name}, or clouds of your own as folder:DIR."
        )
    (path,) = fetched[1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _KICAD_SHA256:
        raise InvalidInputError(
            f"{repo} on the Hub: {_KICAD.name} has sha256 {digest}; expected {_KICAD_SHA256}. Upgrade i2p-zoo."
        )
    return path
