"""Labelled scenes that are read when asked for, the crops of them to train on, and the blocks to vote over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from i2p_zoo.data.clouds import row_numbers
from i2p_zoo.errors import InvalidInputError

_MOST_BLOCKS = 1_000_000  # along an axis
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
        groups: M names of what must not be divided between training and held-out scenes, such as scans of one room, or None.

    Raises:
        InvalidInputError: no class, or two of one name, or another number of groups than of scenes.

    Example:
        >>> room = {"points": np.zeros((2, 3), np.float32), "labels": np.array([0, IGNORED])}
        >>> rooms = SceneSet(("hall", "office"), ("floor",), lambda number: room)
        >>> len(rooms), rooms.subset([1]).names, rooms.scene(1)["labels"].tolist()
        (2, ('office',), [0, -1])
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    load: Callable[[int], Scene]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise InvalidInputError(f"A set of scenes needs at least one class and different names; got {self.classes}.")
        if self.groups is not None and len(self.groups) != len(self.names):
            raise InvalidInputError(f"A set of scenes has {len(self.names)} names and {len(self.groups)} groups.")

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
        """Returns the scenes of the given numbers, in their order, or those that a mask (M,) selects; none is read.

        Raises:
            InvalidInputError: a number that no scene has, a mask of another length, or neither numbers nor a mask.
        """
        chosen = tuple(row_numbers(rows, len(self)).tolist())
        names = tuple(self.names[row] for row in chosen)
        groups = None if self.groups is None else tuple(self.groups[row] for row in chosen)
        return replace(self, names=names, load=partial(_load_chosen, self.load, chosen), groups=groups)


def hold_out_scenes(scenes: SceneSet, fraction: float, seed: int = 0) -> tuple[SceneSet, SceneSet]:
    """Divides a training split into scenes to train on and scenes to choose by; a group stays on one side.

    Args:
        scenes: the training split.
        fraction: of the scenes to hold out, as near as groups that are drawn at random come to it, at least one group.
        seed: of the choice.

    Returns:
        The scenes to train on and those held out, each in their order.

    Raises:
        InvalidInputError: a fraction outside 0 to 1, no scene is left to train on, or all are of one group.

    Example:
        >>> scenes = SceneSet(("a", "b", "c", "d"), ("floor",), lambda number: {})
        >>> [len(part) for part in hold_out_scenes(scenes, 0.25)]
        [3, 1]
    """
    groups = np.arange(len(scenes)) if scenes.groups is None else np.unique(scenes.groups, return_inverse=True)[1]
    sizes = np.bincount(groups)
    wanted = max(1, round(fraction * len(scenes))) if 0 < fraction < 1 else 0
    if not 0 < wanted < len(scenes) or len(sizes) < 2:
        told = f"{len(scenes)} scenes" + ("" if scenes.groups is None else f" in {len(sizes)} groups")
        raise InvalidInputError(f"A fraction of {fraction} of {told} cannot be held out and others be left.")
    held = np.isin(groups, _draw_groups(sizes, wanted, np.random.default_rng(seed)))
    return scenes.subset(~held), scenes.subset(held)


def _draw_groups(sizes: NDArray[np.int64], wanted: int, random: np.random.Generator) -> list[int]:
    """Draws groups, at least one and never all, of about as many scenes as wanted, which is fewer than there are."""
    drawn: list[int] = []
    lacking = wanted
    for group in random.permutation(len(sizes)).tolist():
        if sizes[group] <= lacking:
            drawn.append(group)
            lacking -= sizes[group]
    left = np.setdiff1d(np.arange(len(sizes)), drawn)
    nearest = int(left[np.abs(sizes[left] - lacking).argmin()])
    if not drawn or (abs(sizes[nearest] - lacking) < lacking and len(left) > 1):
        drawn.append(nearest)
    alone = int(np.abs(sizes - wanted).argmin())
    return [alone] if abs(sizes[alone] - wanted) < abs(sizes[drawn].sum() - wanted) else drawn


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
        InvalidInputError: no point, one that is not finite, an extent that is not positive or far too small, or another
            overlap.

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
    steps = max(high - low - edge, 0) / (edge * (1 - overlap))
    if steps > _MOST_BLOCKS:
        raise InvalidInputError(
            f"Points from {low:g} to {high:g} take {steps:.2g} blocks of {edge:g}; give larger ones, or remove points far out."
        )
    count = 1 + int(np.ceil(steps))
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
    starts, ends = intervals[0]
    near = slice(np.searchsorted(ends, values[0]), np.searchsorted(starts, values[-1], "right"))  # there may be very many
    firsts, lasts = np.searchsorted(values, starts[near], "left"), np.searchsorted(values, ends[near], "right")
    for number in np.flatnonzero(firsts < lasts):
        yield from _blocks(coordinates, ordered[firsts[number] : lasts[number]], intervals[1:])


def _edges(extent: ArrayLike) -> NDArray[np.float64]:
    edges = np.asarray(extent, np.float64)
    if edges.shape not in ((), (3,)) or not (edges > 0).all():
        raise InvalidInputError(f"`extent` must be one or three positive numbers; got {extent!r}.")
    return np.broadcast_to(edges, 3)


def _take(scene: Scene, rows: NDArray[np.int64]) -> tuple[Scene, NDArray[np.int64]]:
    return {name: values[rows] for name, values in scene.items()}, rows
