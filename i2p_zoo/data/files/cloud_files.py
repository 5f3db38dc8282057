"""One cloud or mesh from a file of any of the usual formats."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays, to_bytes, unit_normals
from i2p_zoo.data.files.formats import COLUMN_READERS, READERS, SCENE_READERS
from i2p_zoo.data.files.named_columns import Columns, parse_columns
from i2p_zoo.data.files.paths import faults_named
from i2p_zoo.data.files.polygons import check_corners, sample_surface
from i2p_zoo.data.files.raw_floats import is_gltf_buffer
from i2p_zoo.data.files.text_clouds import TEXT_SUFFIXES, is_text_cloud
from i2p_zoo.data.files.value_blocks import bound_of
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.wording import count_of, near_paths, suggest

SUFFIXES = (*READERS, *SCENE_READERS, *COLUMN_READERS)
_BLOCK = 2**14  # rows that are converted at a time
_LARGEST = float(np.finfo(np.float32).max)


class Losses(NamedTuple):
    """What of a file is not used.

    Attributes:
        points: how many have no coordinates.
        normals: how many are not finite, which costs all of them.
        unread: in words, what else is in the file and not read.
    """

    points: int = 0
    normals: int = 0
    unread: tuple[str, ...] = ()

    @classmethod
    def total(cls, losses: Sequence[Losses]) -> Losses:
        """Returns what is not used of several files."""
        unread = {words for each in losses for words in each.unread}
        return cls(sum(each.points for each in losses), sum(each.normals for each in losses), tuple(sorted(unread)))

    def text(self) -> str:
        """Returns what is left out, or nothing."""
        parts = []
        if self.points:
            parts.append(f"{count_of(self.points, 'point')} without coordinates (NaN or infinite) left out")
        if self.normals:
            parts.append(f"its normals left out, of which {self.normals:,} are NaN or infinite")
        if self.unread:
            parts.append(f"{' and '.join(self.unread)} left out")
        return " and ".join(parts)


def read_cloud(
    path: str | os.PathLike[str],
    points: int = 2048,
    seed: int = 0,
    *,
    scene: bool = False,
    columns: int | str | Sequence[str] | None = None,
) -> Arrays:
    """Reads a cloud, or samples a mesh uniformly by area.

    `.ply`, `.off`, `.obj`, `.stl`, `.glb` and `.gltf` with faces are meshes; a sampled point has the normal of its face and the
    colour of that, or one between those of its corners. Textures, and materials in other files, are left out with a warning.
    Without faces these files are clouds, and so are `.pcd`, `.las`, `.laz`, `.e57` and `.npz` (`points` or `coord`, `xyz`,
    `pos`, with `normals`, floats or int8 of 127 times a unit vector, and `rgb` or `color`; or its only array of three columns).
    Clouds are returned whole.

    So are rows of numbers: `.npy` (N, 3 or more), `.bin` (float32) and the texts `.txt`, `.xyz`, `.pts`, `.csv`, `.asc` and,
    of Open3D, `.xyzn` and `.xyzrgb`. Their columns have the names of a header, which must have x, y and z, or of the ending, or
    are told by their values: unit vectors are normals, three columns of whole numbers up to 255 colours, and so are the last
    three of six within 0 to 1. A `.bin` is nuScenes' (`.pcd.bin`: x, y, z, intensity, ring) or, if its values show it, KITTI's
    (x, y, z, intensity). What could be read in two ways is refused; `columns` says which.

    Coordinates are the file's own, never shifted, and so are colours, also the linear ones of glTF. Points without coordinates
    (NaN or infinite, as organised clouds have them where nothing came back) are left out with a warning. A normal that is not
    finite costs a file its normals, with a warning.

    Args:
        path: one of the endings of `SUFFIXES`, in either case.
        points: how many to sample of a mesh.
        seed: of the sampling.
        scene: take a mesh's vertices, all of them in the file's order, in place of points sampled on it, with their own normals
            if each has one, and whatever else the file has for each point.
        columns: of a `.bin`, `.npy`, `.npz` or text how many columns a point has, or their names, such as
            `"x,y,z,nx,ny,nz"` or `"x,y,z,intensity,ring"`.

    Returns:
        `points` (N, 3), float32 if that holds the file's numbers exactly and else float64, and, where the file has them,
        `normals` (N, 3) float32 of length 1, or 0, and `rgb` (N, 3) uint8. For a scene also `intensity` (N, 1), integers of
        8 or 16 bits as fractions of their range, and every other column as `field:NAME` (N, 1), float32, and of a `.bin` of
        four columns `points` (N, 4).

    Raises:
        NotFoundError: no such file.
        InvalidInputError: another ending, or a file that is empty, cut short or longer than its header says, without a point
            or a surface, with columns that cannot be told, or with colours of unknown range.
        MissingExtraError: the format's library is not installed.
    """
    cloud, losses = read_with_losses(path, points, seed, scene=scene, columns=columns)
    if losses.text():
        warnings.warn(f"{path}: {losses.text()}.", stacklevel=2)
    return cloud


def read_with_losses(
    path: str | os.PathLike[str],
    points: int = 2048,
    seed: int = 0,
    *,
    scene: bool = False,
    columns: int | str | Sequence[str] | None = None,
) -> tuple[Arrays, Losses]:
    """Reads a cloud as `read_cloud` does, and returns what was left out in place of a warning."""
    path = Path(path)
    suffix = path.suffix.lower()
    _check_path(path)
    if points < 1:
        raise InvalidInputError(f"`points` must be at least 1; got {points}.")
    chosen = _chosen_columns(path, columns)
    with faults_named(path), path.open("rb") as file, warnings.catch_warnings():
        # the only sign that older releases of numpy give when they stop at a word among the numbers
        warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
        if suffix in COLUMN_READERS:
            cloud = COLUMN_READERS[suffix](file, chosen)
        elif suffix in SCENE_READERS:
            cloud = SCENE_READERS[suffix](file, scene)
        else:
            cloud = READERS[suffix](file)
        return _finish(cloud, scene, points, seed, is_bin=suffix == ".bin")


def is_cloud_file(path: Path) -> bool:
    """Whether a file has an ending that is read, and is no buffer of a glTF file and no text without rows of numbers."""
    suffix = path.suffix.lower()
    if suffix == ".bin" and not path.name.lower().endswith(".pcd.bin"):
        return not is_gltf_buffer(path)
    return suffix in SUFFIXES and (suffix not in TEXT_SUFFIXES or is_text_cloud(path))


def _check_path(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(f"{path}: no such file.{suggest(near_paths(path))}")
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; expected one file, of {', '.join(SUFFIXES)}.")
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInputError(f"{path}: unknown ending {path.suffix!r}; the known ones are {', '.join(SUFFIXES)}.")
    if not path.stat().st_size:
        raise InvalidInputError(f"{path} is empty (0 bytes).")


def _chosen_columns(path: Path, columns: int | str | Sequence[str] | None) -> Columns | None:
    if columns is None:
        return None
    if path.suffix.lower() not in COLUMN_READERS:
        raise InvalidInputError(f"{path} names its columns itself; `columns` is for files of {', '.join(COLUMN_READERS)}.")
    return parse_columns(
        columns if isinstance(columns, str) else str(columns) if isinstance(columns, int) else ",".join(columns)
    )


def _finish(cloud: Arrays, scene: bool, points: int, seed: int, is_bin: bool) -> tuple[Arrays, Losses]:
    """Returns a reader's arrays as `read_cloud` promises them."""
    unread = tuple(map(str, cloud.get("unread", ())))
    if "sizes" in cloud:
        check_corners(len(cloud["points"]), cloud["corners"])
    if "sizes" in cloud and not scene:
        painted: Arrays = {name: to_bytes(cloud[name]) for name in ("colors", "face_colors") if name in cloud}
        drawn: Arrays = sample_surface({**cloud, **painted}, points, seed)
        cloud = drawn | {"points": drawn["points"].astype(_narrow(cloud["points"]).dtype)}
    elif "face_colors" in cloud:
        unread += ("the colours of its faces, which its vertices have not",) * ("colors" not in cloud)
    _check_arrays(cloud)
    positions = _narrow(cloud["points"])
    bound = float(cloud.pop("bound", np.inf))
    largest = bound if bound <= _LARGEST else _bound(positions)
    kept = None if largest < np.inf else _find_finite(positions)
    if kept is not None and not kept.any():
        raise InvalidInputError(f"none of its {len(kept)} points has coordinates: all are NaN or infinite.")
    positions = _rows(positions, kept)
    if not largest <= _LARGEST and np.abs(positions).max() > _LARGEST:
        raise InvalidInputError("its coordinates are beyond the range of float32.")
    result: Arrays = {"points": positions}
    faulty = 0
    if "normals" in cloud:
        normals = _rows(cloud["normals"], kept)
        finite = None if min(bound, _bound(normals)) < np.inf else _find_finite(normals)
        faulty = 0 if finite is None else int((~finite).sum())
        if not faulty:
            result["normals"] = unit_normals(normals)
    colors = cloud["colors"] if "colors" in cloud else cloud.get("rgb")
    if colors is not None:
        result["rgb"] = to_bytes(_rows(colors, kept))
    scalars = {name: array for name, array in cloud.items() if name == "intensity" or name.startswith("field:")}
    for name, array in scalars.items() if scene else ():
        result[name] = _fractions(name, _rows(array, kept)).astype(np.float32).reshape(-1, 1)
    if scene and is_bin and list(scalars) == ["intensity"] and len(cloud) == 2:
        result["points"] = np.concatenate([result["points"], result["intensity"]], 1)
    return result, Losses(0 if kept is None else int((~kept).sum()), faulty, unread)


def _check_arrays(cloud: Arrays) -> None:
    shape = cloud["points"].shape
    if len(shape) != 2 or shape[1] != 3 or not shape[0]:
        raise InvalidInputError(f"expected at least one point of three coordinates; found shape {shape}.")
    for name in {"points", "normals", "colors", "rgb"} & cloud.keys():
        array, word = cloud[name], "rgb" if name == "colors" else name
        if array.dtype.kind not in "fiu":
            raise InvalidInputError(f"its {word} are {array.dtype}, no numbers.")
        if array.shape != shape:
            raise InvalidInputError(f"its {word} are {array.dtype} {array.shape} for {shape[0]} points.")


def _narrow(points: NDArray[Any]) -> NDArray[Any]:
    """Returns float32 where that holds the numbers exactly, else float64."""
    if points.dtype.kind == "f" and points.dtype.itemsize <= 4:
        return points.astype(np.float32, copy=False)
    single = np.empty(points.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(points), _BLOCK):
            block = points[start : start + _BLOCK]
            single[start : start + _BLOCK] = block
            if not np.array_equal(single[start : start + _BLOCK], block, equal_nan=block.dtype.kind == "f"):
                return np.asarray(points, np.float64)
    return single


def _bound(values: NDArray[Any]) -> float:
    return bound_of(values[start : start + _BLOCK].reshape(-1) for start in range(0, len(values), _BLOCK))


def _find_finite(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Returns which rows are finite, or None where all are."""
    finite: NDArray[np.bool_] = np.isfinite(values).all(1)
    return None if finite.all() else finite


def _rows(array: NDArray[Any], kept: NDArray[np.bool_] | None) -> NDArray[Any]:
    return array if kept is None else array[kept]


def _fractions(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Returns an intensity of 8 or 16 bits as fractions of its range, as LAS defines it; other numbers as they are."""
    is_raw = name == "intensity" and values.dtype.name in ("uint8", "uint16")  # of either byte order
    return values / np.float32(np.iinfo(values.dtype).max) if is_raw else values
