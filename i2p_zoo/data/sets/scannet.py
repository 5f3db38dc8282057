"""ScanNet v2: reconstructed rooms as meshes with a class for each vertex."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.paths import faults_named, require_file, require_folder
from i2p_zoo.data.files.ply import RGB, read_ply, vertex_columns
from i2p_zoo.data.scenes import IGNORED, Scene, SceneSet
from i2p_zoo.errors import InvalidInputError

# NYU40's id of each of the benchmark's classes, and its name; every other id is IGNORED.
_NAMES = (
    "1 wall, 2 floor, 3 cabinet, 4 bed, 5 chair, 6 sofa, 7 table, 8 door, 9 window, 10 bookshelf, 11 picture, 12 counter, "
    "14 desk, 16 curtain, 24 refrigerator, 28 shower curtain, 33 toilet, 34 sink, 36 bathtub, 39 other furniture"
)
IDS = {int(number): name for number, name in (entry.split(maxsplit=1) for entry in _NAMES.split(", "))}
CLASSES = tuple(IDS.values())
ADVICE = (
    "ScanNet is available from its authors' page on agreement to its terms; give the folder with scans/scene0000_00 and so on, "
    "and beside scans the benchmark's scannetv2_train.txt and scannetv2_val.txt."
)
_CLASS_OF_ID = np.full(2**16, IGNORED, np.int64)
_CLASS_OF_ID[list(IDS)] = range(len(IDS))


def load_scannet(folder: str | os.PathLike[str]) -> tuple[SceneSet, SceneSet]:
    """Lists the rooms that `scannetv2_train.txt` and `scannetv2_val.txt` name.

    The points of `scans/NAME` are the vertices of `NAME_vh_clean_2.ply`, with colours; their classes are NYU40's ids in
    `NAME_vh_clean_2.labels.ply`. A vertex of none of the benchmark's 20 classes is `IGNORED`.

    Args:
        folder: with the two lists and `scans`.

    Returns:
        The train and the validation split, the latter to test on: rooms in metres with colours. The scans of one room, such as
        scene0000_00 and scene0000_01, are a group, which `hold_out_scenes` does not divide.

    Raises:
        NotFoundError: no such folder, or a list or a file that it names is missing.
        InvalidInputError: a list without names or with one twice; when a room is read, a file that is damaged or does not fit.
    """
    folder = require_folder(folder, ADVICE)
    return _list_rooms(folder, folder / "scannetv2_train.txt"), _list_rooms(folder, folder / "scannetv2_val.txt")


def _list_rooms(folder: Path, listing: Path) -> SceneSet:
    require_file(listing, ADVICE)
    names = tuple(listing.read_text(encoding="utf-8", errors="replace").split())
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise InvalidInputError(f"{listing}: expected names such as scene0000_00, each once; has {len(names)}, twice {twice}.")
    rooms = tuple(folder / "scans" / name for name in names)
    for room in rooms:
        for path in _files(room):
            require_file(path, f"{listing.name} names {room.name}. {ADVICE}")
    groups = tuple(name.rsplit("_", 1)[0] for name in names)
    return SceneSet(names, CLASSES, partial(_load_room, rooms), groups)


def _files(room: Path) -> tuple[Path, Path]:
    return room / f"{room.name}_vh_clean_2.ply", room / f"{room.name}_vh_clean_2.labels.ply"


def _load_room(rooms: Sequence[Path], number: int) -> Scene:
    path, label_path = _files(rooms[number])
    columns = _read_vertices(path, ("x", "y", "z", *RGB))
    ids = _read_vertices(label_path, ("label",))["label"]
    if len(ids) != len(columns["x"]):
        raise InvalidInputError(f"{path} has {len(columns['x']):,} vertices and {label_path} has {len(ids):,}.")
    if ids.dtype.kind not in "iu" or ids.min(initial=0) < 0 or ids.max(initial=0) >= len(_CLASS_OF_ID):
        raise InvalidInputError(f"{label_path}: labels must be ids such as NYU40's 1 to 40; found {ids.dtype} {ids[:3]}...")
    colors = [columns[name] for name in RGB]
    if any(color.dtype != np.uint8 for color in colors):
        raise InvalidInputError(f"{path}: colours must be of type uchar; found {', '.join(str(c.dtype) for c in colors)}.")
    points = np.stack([columns[name] for name in "xyz"], 1).astype(np.float32)
    return {"points": points, "labels": _CLASS_OF_ID[ids], "rgb": np.stack(colors, 1)}


def _read_vertices(path: Path, names: Sequence[str]) -> Arrays:
    with faults_named(path), path.open("rb") as file:
        return dict(zip(names, vertex_columns(read_ply(file).elements, names), strict=True))
