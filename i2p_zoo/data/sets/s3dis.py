"""S3DIS, the rooms of six indoor areas: its raw annotations, or the usual arrays made of them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import read_cache, to_bytes, write_cache
from i2p_zoo.data.files.paths import faults_named, require_folder, sort_paths
from i2p_zoo.data.scenes import Scene, SceneSet
from i2p_zoo.errors import InvalidInputError, NotFoundError

CLASSES = tuple("ceiling floor wall beam column window door table chair sofa bookcase board clutter".split())
AREAS = range(1, 7)
ADVICE = (
    "S3DIS is available from the page of Stanford's building parser; give the folder Stanford3dDataset_v1.2_Aligned_Version, "
    "which holds Area_1 to Area_6, or one of Area_1_conferenceRoom_1.npy and so on."
)
_CACHE = "i2p-zoo-points.npz"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")  # all but white space
_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ROW = re.compile(rb"\s*(?:" + _NUMBER + rb"\s+){5}" + _NUMBER + rb"\s*")


def load_s3dis(folder: str | os.PathLike[str], test_area: int = 5) -> tuple[SceneSet, SceneSet]:
    """Lists the rooms of the raw release, or of the arrays (N, 7) that PointNet's scripts make of it.

    A raw room is the objects `Area_*/ROOM/Annotations/CLASS_N.txt`, lines of x, y, z, red, green, blue; an object of another
    class than the 13, such as `stairs`, is clutter. As the text takes long to read, a room is kept after the first time in
    `Area_*/ROOM/i2p-zoo-points.npz`, for as long as its files are the same.

    Single bytes of the releases are damaged: where there was a space or a digit stands a control character, which differs
    from it in one bit. One is known in line 180389 of `Area_5/hallway_6/Annotations/ceiling_1.txt`; others are in
    `Area_5/office_19` and `Area_3/hallway_2` of some copies. Such a character is read with the bit set (byte 0x10 as `0`) if
    this makes a line of six numbers, and else as a space. Anything else that is malformed is an error.

    The colours of an array are numbers of 0 to 255, or floats of 0 to 1.

    Args:
        folder: with `Area_1` to `Area_6`, or with `Area_1_conferenceRoom_1.npy` and so on.
        test_area: whose rooms are the test split.

    Returns:
        The train and the test split: rooms in metres with colours. As no place is in two rooms, they have no groups: any of
        them can be held out.

    Raises:
        NotFoundError: no such folder, or it lacks an area.
        InvalidInputError: another test area, or a room without annotations; when a room is read, a file that is no such text
            or array, by the number of its line.

    References:
        https://github.com/charlesq34/pointnet/issues/296, https://github.com/zeliu98/CloserLook3D/issues/15 and
        https://github.com/loicland/superpoint_graph/issues/230 on the damaged bytes.
    """
    folder = require_folder(folder, ADVICE)
    if test_area not in AREAS:
        raise InvalidInputError(f"`test_area` must be one of {', '.join(map(str, AREAS))}; got {test_area}.")
    raw = [path for area in AREAS for path in sort_paths((folder / f"Area_{area}").glob("[!.]*")) if path.is_dir()]
    bare = [str(path) for path in raw if not (path / "Annotations").is_dir()]
    if bare:
        raise InvalidInputError(f"{bare[0]}: it has no folder Annotations, as {len(bare)} of {len(raw)} rooms. {ADVICE}")
    rooms = {f"{path.parent.name}/{path.name}": path for path in raw}
    if not rooms:
        rooms = {re.sub(r"^(Area_\d)_", r"\1/", path.stem): path for path in sort_paths(folder.glob("Area_*_*.npy"))}
    missing = [f"Area_{area}" for area in AREAS if not any(name.startswith(f"Area_{area}/") for name in rooms)]
    if missing:
        raise NotFoundError(f"{folder}: no rooms of {', '.join(missing)}. {ADVICE}")
    whole = SceneSet(tuple(rooms), CLASSES, partial(_load_room, tuple(rooms.values())))
    is_test = np.array([name.startswith(f"Area_{test_area}/") for name in rooms])
    return whole.subset(~is_test), whole.subset(is_test)


def _load_room(paths: Sequence[Path], number: int) -> Scene:
    path = paths[number]
    return _read_array(path) if path.suffix == ".npy" else _read_room(path)


def _read_array(path: Path) -> Scene:
    with faults_named(path), path.open("rb") as file:
        rows = np.lib.format.read_array(file, allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != 7 or rows.dtype.kind not in "fiu":
            raise InvalidInputError(f"expected numbers (N, 7), x y z r g b label; found {rows.dtype} {rows.shape}.")
        faults = np.flatnonzero(~(_are_fit(rows) & np.isin(rows[:, 6], range(len(CLASSES)))))
        if len(faults):
            values = rows[faults[0]].tolist()
            raise InvalidInputError(f"row {faults[0]} is {values}; expected x y z, r g b of 0 to 255 and a class of 0 to 12.")
        return _scene(np.hstack([rows[:, :3], to_bytes(rows[:, 3:6])]), rows[:, 6])


def _read_room(folder: Path) -> Scene:
    paths = sort_paths((folder / "Annotations").glob("[!.]*.txt"))
    if not paths:
        raise InvalidInputError(f"{folder / 'Annotations'}: no files such as ceiling_1.txt. {ADVICE}")
    status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    fingerprint = hashlib.sha256(f"1 {status}".encode()).hexdigest()  # of the method's version and the files
    cached = read_cache(folder / _CACHE, fingerprint, ("points", "labels", "rgb"))
    if cached is not None:
        return {"points": cached["points"], "labels": cached["labels"].astype(np.int64), "rgb": cached["rgb"]}
    objects = [_read_object(path) for path in paths]
    names = [path.name.partition("_")[0] for path in paths]
    labels = [CLASSES.index(name if name in CLASSES else "clutter") for name in names]
    scene = _scene(np.concatenate(objects), np.repeat(labels, [len(rows) for rows in objects]))
    arrays = {**scene, "labels": scene["labels"].astype(np.uint8)}
    write_cache(folder / _CACHE, fingerprint, "the text is read again each time.", **arrays)
    return scene


def _read_object(path: Path) -> NDArray[np.float64]:
    """Returns (n, 6), x y z r g b, of a text."""
    content = path.read_bytes()
    if not content.strip():
        raise InvalidInputError(f"{path}: the file is empty; expected lines of x y z r g b.")
    if _CONTROL.search(content):
        content = b"\n".join(map(_repaired, content.split(b"\n")))
    try:
        rows = np.loadtxt(io.BytesIO(content), np.float64, comments=None, encoding="latin-1", ndmin=2)
    except ValueError as error:
        raise _fault(path, content) from error
    if rows.shape[1] != 6 or not _are_fit(rows).all():
        raise _fault(path, content)
    return rows


def _repaired(line: bytes) -> bytes:
    if _CONTROL.search(line):
        for repaired in (_CONTROL.sub(lambda match: bytes([match[0][0] | 0x20]), line), _CONTROL.sub(b" ", line)):
            if _ROW.fullmatch(repaired):
                return repaired
    return line


def _fault(path: Path, content: bytes) -> InvalidInputError:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip() and not (_ROW.fullmatch(line) and _are_fit(np.array([line.split()], np.float64)).all()):
            text = line[:80].decode("latin-1")
            return InvalidInputError(f"{path}: line {number} is {text!r}; expected x y z and r g b of 0 to 255.")
    return InvalidInputError(f"{path}: not a text of lines x y z r g b.")


def _are_fit(rows: NDArray[Any]) -> NDArray[np.bool_]:
    limit = np.finfo(np.float32).max  # which no NaN is below
    fit: NDArray[np.bool_] = (np.abs(rows) <= limit).all(1) & (rows[:, 3:6] >= 0).all(1) & (rows[:, 3:6] <= 255).all(1)
    return fit


def _scene(rows: NDArray[Any], labels: NDArray[Any]) -> Scene:
    rgb = np.round(rows[:, 3:]).astype(np.uint8)
    return {"points": rows[:, :3].astype(np.float32), "labels": labels.astype(np.int64), "rgb": rgb}
