"""SemanticKITTI: LiDAR scans of the streets of KITTI's odometry sequences, with a class for each point."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from i2p_zoo.data.files.paths import require_file, require_folder, sort_paths
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet
from i2p_zoo.errors import InvalidInputError, NotFoundError

TRAIN, TEST = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10), (8,)
ADVICE = (
    "SemanticKITTI is available at semantic-kitti.org, its scans from KITTI's page on odometry; give the folder with "
    "dataset/sequences/00/velodyne and dataset/sequences/00/labels and so on."
)
# The official learning map: the ids of the label files that count as each class; those from 252 on are of what moves.
_IDS = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),  # bus, on rails, other
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),  # and lane marking
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
CLASSES = tuple(_IDS)
_UNLABELLED = (0, 1, 52, 99)  # and outlier, other structure, other object
_UNKNOWN = -2
_CLASS_OF_ID = np.full(2**16, _UNKNOWN, np.int64)
_CLASS_OF_ID[list(_UNLABELLED)] = IGNORED
for label, ids in enumerate(_IDS.values()):
    _CLASS_OF_ID[list(ids)] = label


def load_semantickitti(folder: str | os.PathLike[str]) -> tuple[SceneSet, SceneSet]:
    """Lists the scans of sequences 00 to 07, 09 and 10 to train on, and of 08, the validation sequence, to test on.

    A scan is `dataset/sequences/NN/velodyne/*.bin`, float32 of x, y, z and intensity, and `labels/*.label`, uint32 whose
    lower 16 bits are the class and the upper ones an instance. The sequences from 11 on have no public labels.

    Args:
        folder: with `dataset/sequences`, or `dataset` itself.

    Returns:
        The train and the test split: scans in metres about the sensor, (N, 4) with an intensity from 0 to 1, which is given by
        its name too. A scan without
        a point is left out, with a warning. A sequence is a group, which `hold_out_scenes` does not divide.

    Raises:
        NotFoundError: no such folder, or it lacks a sequence or the labels of a scan.
        InvalidInputError: a scan that is cut short or has another number of labels than points; when a scan is read, an id
            that the official map lacks.
    """
    folder = require_folder(folder, ADVICE)
    root = next((path for path in (folder / "dataset" / "sequences", folder / "sequences") if path.is_dir()), None)
    if root is None:
        raise NotFoundError(f"{folder}: neither dataset/sequences nor sequences. {ADVICE}")
    return _list_scans(root, TRAIN), _list_scans(root, TEST)


def _list_scans(root: Path, sequences: Sequence[int]) -> SceneSet:
    filled: list[Path] = []
    empty: list[Path] = []
    for sequence in sequences:
        velodyne = root / f"{sequence:02d}" / "velodyne"
        scans = sort_paths(velodyne.glob("[!.]*.bin"))
        if not scans:
            raise NotFoundError(f"{velodyne}: no such scans as 000000.bin. {ADVICE}")
        for scan in scans:
            require_file(_labels(scan), f"The scan {scan} has no labels. {ADVICE}")
            (filled if _count(scan) else empty).append(scan)
    if empty:
        warnings.warn(f"{root}: {len(empty)} scans such as {empty[0]} have no points and are left out.", stacklevel=3)
    names = tuple(f"{scan.parents[1].name}/{scan.stem}" for scan in filled)
    # Neighbouring scans are a tenth of a second apart, and most sequences come through the same streets again: what is held out
    # of a sequence has been trained on, however it is cut. The ten sequences still add up to any usual fraction within 3 %.
    groups = tuple(scan.parents[1].name for scan in filled)
    return SceneSet(names, CLASSES, partial(_load_scan, tuple(filled)), groups)


def _load_scan(scans: Sequence[Path], number: int) -> Scene:
    scan = scans[number]
    _count(scan)
    points, ids = np.fromfile(scan, "<f4").reshape(-1, 4), np.fromfile(_labels(scan), "<u4") & 0xFFFF
    labels = _CLASS_OF_ID[ids]
    if (labels == _UNKNOWN).any():
        row = int((labels == _UNKNOWN).argmax())
        known = ", ".join(map(str, np.flatnonzero(_CLASS_OF_ID != _UNKNOWN)))
        raise InvalidInputError(f"{_labels(scan)}: the label of point {row} is {ids[row]}; the map has {known}.")
    points = points.astype(np.float32)
    return {"points": points, "labels": labels, "intensity": points[:, 3:].copy()}


def _labels(scan: Path) -> Path:
    return scan.parents[1] / "labels" / f"{scan.stem}.label"


def _count(scan: Path) -> int:
    """Returns the number of points by the sizes of a scan's two files."""
    size, label_size = scan.stat().st_size, _labels(scan).stat().st_size
    for path, count, unit in ((scan, size, 16), (_labels(scan), label_size, 4)):
        if count % unit:
            raise InvalidInputError(f"{path}: {count:,} bytes are not a multiple of the {unit} of a point: it is cut short.")
    if size // 16 != label_size // 4:
        raise InvalidInputError(f"{scan} has {size // 16:,} points and {_labels(scan)} has {label_size // 4:,} labels.")
    return size // 16
