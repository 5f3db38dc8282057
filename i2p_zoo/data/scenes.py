"""Labelled scenes that are read when asked for, the crops of them to train on, and the blocks to vote over."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from i2p_zoo.errors import InvalidInputError

IGNORED = -1  # the label of a point that belongs to no class: it is neither trained on nor counted

# points: (N, 3) float32, or (N, 4) with an intensity. labels: (N,) int64, IGNORED or a class.
# rgb: (N, 3) uint8 and normals: (N, 3) float32, where the data set has them.
Scene = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class SceneSet:
    """Scenes of one split. Only their names are held: a data set of scenes seldom fits into memory.

    Attributes:
        names: one for each of the M scenes, such as `Area_5/office_1`.
        classes: the K class names, all different.
        load: returns the scene of a number from 0 to M - 1. The loaders' own can be pickled, for processes that load.

    Raises:
        InvalidInputError: no class, or two of one name.

    Example:
        >>> room = {"points": np.zeros((2, 3), np.float32), "labels": np.array([0, IGNORED])}
        >>> rooms = SceneSet(("hall", "office"), ("floor",), lambda number: room)
        >>> len(rooms), rooms.subset([1]).names, rooms.scene(1)["labels"].tolist()
        (2, ('office',), [0, -1])
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    load: Callable[[int], Scene]

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise InvalidInputError(f"A set of scenes needs at least one class and different names; got {self.classes}.")

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, number: int) -> Scene:
        """Reads and checks one scene.

        Raises:
            InvalidInputError: no such number, or a scene whose arrays have other shapes, types or lengths than a `Scene`, no
                point, values that are not finite or labels that are no class; the message names the scene.
        """
        if not 0 <= number < len(self):
            raise InvalidInputError(f"There is no scene {number}; the set has those from 0 to {len(self) - 1}.")
        scene = self.load(number)
        _check_scene(self.names[number], scene, len(self.classes))
        return scene

    def subset(self, rows: NDArray[Any] | Sequence[int]) -> SceneSet:
        """Returns the scenes of the given numbers, in their order; none is read.

        Raises:
            InvalidInputError: a number that no scene has.
        """
        chosen = tuple(operator.index(row) for row in rows)
        if chosen and not 0 <= min(chosen) <= max(chosen) < len(self):
            raise InvalidInputError(f"Scenes {min(chosen)} to {max(chosen)} are wanted of a set of {len(self)}.")
        return replace(self, names=tuple(self.names[row] for row in chosen), load=partial(_load_chosen, self.load, chosen))


def hold_out_scenes(scenes: SceneSet, fraction: float, seed: int = 0) -> tuple[SceneSet, SceneSet]:
    """Divides a training split into scenes to train on and scenes to choose by.

    Args:
        scenes: the training split.
        fraction: of the scenes to hold out, at least one.
        seed: of the choice.

    Returns:
        The scenes to train on and those held out, each in their order.

    Raises:
        InvalidInputError: a fraction outside 0 to 1, or no scene is left to train on.

    Example:
        >>> scenes = SceneSet(("a", "b", "c", "d"), ("floor",), lambda number: {})
        >>> [len(part) for part in hold_out_scenes(scenes, 0.25)]
        [3, 1]
    """
    held = max(1, round(fraction * len(scenes))) if 0 < fraction < 1 else 0
    if not 0 < held < len(scenes):
        raise InvalidInputError(f"A fraction of {fraction} of {len(scenes)} scenes cannot be held out and others be left.")
    rows = np.random.default_rng(seed).permutation(len(scenes))
    return scenes.subset(np.sort(rows[held:])), scenes.subset(np.sort(rows[:held]))


def _load_chosen(load: Callable[[int], Scene], chosen: tuple[int, ...], number: int) -> Scene:
    return load(chosen[number])


def _check_scene(name: str, scene: Scene, count: int) -> None:
    if not {"points", "labels"} <= scene.keys():
        raise InvalidInputError(f"Scene {name!r} must have `points` and `labels`; it has {sorted(scene)}.")
    points, labels = scene["points"], scene["labels"]
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] not in (3, 4) or not len(points):
        found = f"{points.dtype} {points.shape}"
        raise InvalidInputError(f"Scene {name!r}: points must be float32 (N, 3) or (N, 4), at least one; got {found}.")
    expected: dict[str, tuple[type, tuple[int, ...]]] = {"labels": (np.int64, (len(points),))}
    expected |= {"rgb": (np.uint8, (len(points), 3)), "normals": (np.float32, (len(points), 3))}
    for key, (kind, shape) in expected.items():
        if key in scene and (scene[key].dtype != kind or scene[key].shape != shape):
            found = f"{scene[key].dtype} {scene[key].shape}"
            raise InvalidInputError(f"Scene {name!r}: {key} must be {np.dtype(kind)} {shape}; got {found}.")
    for key in ("points", "normals"):
        if key in scene and not np.isfinite(scene[key]).all():
            raise InvalidInputError(f"Scene {name!r}: its {key} have values that are NaN or infinite; remove those points.")
    if not IGNORED <= labels.min() <= labels.max() < count:
        raise InvalidInputError(
            f"Scene {name!r}: labels run from {labels.min()} to {labels.max()}; expected {IGNORED}, for none, to {count - 1}."
        )


def crop_box(scene: Scene, center: ArrayLike, extent: ArrayLike) -> tuple[Scene, NDArray[np.int64]]:
    """Cuts a box along the axes out of a scene, its faces included.

    Args:
        scene: whose arrays stay as they are.
        center: (3,) of the box, in the scene's unit.
        extent: of its edges, one number or three; infinite where it has no bound, as a column has none in z.

    Returns:
        The points inside, of which there may be none, and their (N,) int64 row numbers.

    Raises:
        InvalidInputError: an extent that is not positive.

    Example:
        >>> scene = {"points": np.array([[0, 0, 0], [0, 0, 9], [2, 0, 0]], np.float32), "labels": np.array([0, 1, 2])}
        >>> crop_box(scene, center=(0, 0, 0), extent=(2, 2, np.inf))[1].tolist()
        [0, 1]
    """
    offsets = np.abs(scene["points"][:, :3] - np.asarray(center, np.float64))
    return _take(scene, np.flatnonzero((offsets <= _edges(extent) / 2).all(1)))


def crop_sphere(scene: Scene, center: ArrayLike, radius: float) -> tuple[Scene, NDArray[np.int64]]:
    """Cuts a sphere out of a scene, its surface included; as `crop_box`, with a `radius` in the scene's unit.

    Raises:
        InvalidInputError: a radius that is not positive.
    """
    if not radius > 0:
        raise InvalidInputError(f"`radius` must be positive; got {radius}.")
    offsets = scene["points"][:, :3] - np.asarray(center, np.float64)
    return _take(scene, np.flatnonzero((offsets**2).sum(1) <= radius**2))


def choose_crop(
    scene: Scene,
    *,
    extent: ArrayLike | None = None,
    radius: float | None = None,
    max_points: int | None = None,
    random: np.random.Generator,
) -> tuple[Scene, NDArray[np.int64]]:
    """Cuts a box or a sphere about a point of the scene that is drawn at random, so that it is never empty.

    Args:
        scene: whose arrays stay as they are.
        extent: of a box, as `crop_box` takes it.
        radius: of a sphere, in the scene's unit; either this or `extent`.
        max_points: how many points to draw of a crop that has more.
        random: numpy's generator.

    Returns:
        The points, in the scene's order, and their (N,) int64 row numbers.

    Raises:
        InvalidInputError: both `extent` and `radius` or neither, one that is not positive, fewer than 1 of `max_points`, or
            a scene without a point.
    """
    if (extent is None) == (radius is None):
        raise InvalidInputError(f"Give either `extent` or `radius`; got {extent!r} and {radius}.")
    if max_points is not None and max_points < 1:
        raise InvalidInputError(f"`max_points` must be at least 1; got {max_points}.")
    if not len(scene["points"]):
        raise InvalidInputError("A scene without a point has no crop.")
    center = scene["points"][random.integers(len(scene["points"])), :3]
    crop, rows = crop_box(scene, center, extent) if extent is not None else crop_sphere(scene, center, float(radius or 0))
    if max_points is None or len(rows) <= max_points:
        return crop, rows
    return _take(scene, np.sort(random.choice(rows, max_points, replace=False)))


def overlapping_blocks(points: NDArray[Any], extent: ArrayLike, overlap: float = 0.5) -> Iterator[NDArray[np.int64]]:
    """Divides points into boxes along the axes that overlap, so that predictions can be voted over.

    Along each axis the boxes lie at equal distances, the first at the lowest point and the last at the highest.

    Args:
        points: (N, 3) or more columns, of which the first three are coordinates.
        extent: of a box's edges, one number or three, in the points' unit; infinite for no division along an axis.
        overlap: at least this fraction of a box's edge is shared with the next box; from 0 up to, but not, 1.

    Returns:
        An iterator of (n,) int64 row numbers, n > 0, which together name every point at least once.

    Raises:
        InvalidInputError: no point, one that is not finite, an extent that is not positive, or another overlap.

    Example:
        >>> points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
        >>> [rows.tolist() for rows in overlapping_blocks(points, extent=1.5, overlap=0.25)]
        [[0, 1], [1, 2]]
    """
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise InvalidInputError(f"Points must be (N, 3) or of more columns, at least one; got {points.shape}.")
    if not 0 <= overlap < 1:
        raise InvalidInputError(f"`overlap` must be at least 0 and less than 1; got {overlap}.")
    coordinates = points[:, :3].astype(np.float64)
    if not np.isfinite(coordinates).all():
        raise InvalidInputError("Points have coordinates that are NaN or infinite; remove them.")
    intervals = [_intervals(column, edge, overlap) for column, edge in zip(coordinates.T, _edges(extent), strict=True)]
    return _blocks(coordinates, np.arange(len(points)), intervals)


def _intervals(values: NDArray[Any], edge: float, overlap: float) -> NDArray[np.float64]:
    """Returns (2, n), the ends of the intervals along one axis, between which no gap is left by rounding."""
    low, high = values.min(), values.max()
    count = 1 + int(np.ceil(max(high - low - edge, 0) / (edge * (1 - overlap))))
    starts = np.linspace(low, max(low, high - edge), count)
    ends = np.maximum(starts + edge, np.append(starts[1:], high))
    return np.stack([starts, ends])


def _blocks(
    coordinates: NDArray[np.float64], rows: NDArray[np.int64], intervals: Sequence[NDArray[np.float64]]
) -> Iterator[NDArray[np.int64]]:
    if not intervals:
        yield np.sort(rows)
        return
    ordered = rows[np.argsort(coordinates[rows, 3 - len(intervals)])]
    values = coordinates[ordered, 3 - len(intervals)]
    firsts, lasts = np.searchsorted(values, intervals[0][0], "left"), np.searchsorted(values, intervals[0][1], "right")
    for first, last in zip(firsts, lasts, strict=True):
        if first < last:
            yield from _blocks(coordinates, ordered[first:last], intervals[1:])


def _edges(extent: ArrayLike) -> NDArray[np.float64]:
    edges = np.asarray(extent, np.float64)
    if edges.shape not in ((), (3,)) or not (edges > 0).all():
        raise InvalidInputError(f"`extent` must be one or three positive numbers; got {extent!r}.")
    return np.broadcast_to(edges, 3)


def _take(scene: Scene, rows: NDArray[np.int64]) -> tuple[Scene, NDArray[np.int64]]:
    return {name: values[rows] for name, values in scene.items()}, rows
