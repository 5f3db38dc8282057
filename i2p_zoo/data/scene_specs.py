"""Data sets of scenes by a short text, as the command line takes them: `s3dis:DIR`, `scenes:FILE.npz` and so on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.sets.s3dis import load_s3dis
from i2p_zoo.data.sets.scannet import load_scannet
from i2p_zoo.data.sets.scene_npz import load_scene_npz
from i2p_zoo.data.sets.semantickitti import load_semantickitti
from i2p_zoo.errors import InvalidInputError, NotFoundError

Splits = tuple[SceneSet, SceneSet]


def _load_npz(arrays: str, path: Path, colors: bool = False) -> Splits:
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. Expected an .npz file of the arrays {arrays}.")
    return load_scene_npz(path, colors=colors)


_LOADERS: dict[str, Callable[..., Splits]] = {
    "s3dis": load_s3dis,
    "semantickitti": load_semantickitti,
    "scannet": load_scannet,
    "scenes": partial(_load_npz, "points (S, N, 3), unit, label (S, N), classes and split (S,), as boards.npz"),
    "parts": partial(
        _load_npz,
        "points (S, N, 3), scale (S,), part (S, N), parts, coarse_of_part, coarse_parts and split (S,), as kicad-parts.npz",
    ),
}
_EXAMPLES = (
    "s3dis:data/Stanford3dDataset_v1.2_Aligned_Version (or the folder of Area_1_conferenceRoom_1.npy and so on), "
    "semantickitti:data/semantickitti (which holds dataset/sequences), scannet:data/scannet (which holds scans), "
    "scenes:boards.npz, parts:kicad-parts.npz"
)


def load_scenes(spec: str, colors: bool = False) -> Splits:
    """Lists the scenes of a data set that a text names.

    Args:
        spec: a kind and, behind a colon, its folder or file: `s3dis:DIR`, `semantickitti:DIR`, `scannet:DIR`,
            `scenes:FILE.npz` or `parts:FILE.npz`.
        colors: whether scenes of an .npz file have `rgb`; those of scans have what their files hold.

    Returns:
        The train split and the test split, each of at least one scene: Area 5 of S3DIS, sequence 08 of SemanticKITTI, and
        ScanNet's validation split.

    Raises:
        NotFoundError: the folder or file is missing; the message says where the data set is to be had.
        InvalidInputError: an unknown kind, data that cannot be read, or an empty split.
    """
    kind, _, place = spec.partition(":")
    if kind not in _LOADERS or not place:
        raise InvalidInputError(f"Unknown data set of scenes {spec!r}; expected one such as: {_EXAMPLES}.")
    how = {"colors": True} if colors and kind in ("scenes", "parts") else {}
    splits = _LOADERS[kind](Path(place).expanduser(), **how)
    for name, split in zip(("train", "test"), splits, strict=True):
        if not len(split):
            raise InvalidInputError(f"{spec}: the {name} split has no scenes.")
    return splits
