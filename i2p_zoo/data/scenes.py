"""Sets of labelled scenes, which are read when asked for, and the parts of them that are held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from i2p_zoo.data.clouds import check_class_names, row_numbers
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.point_features import FIELD, parse_features
from i2p_zoo.wording import count_of, join_words

IGNORED = -1  # the label of a point that belongs to no class: it is neither trained on nor counted

# points: (N, 3) float32 or float64, or (N, 4) with an intensity. labels: (N,) int64, IGNORED or a class. Where the data set
# has them, rgb: (N, 3) uint8, normals: (N, 3) float32, intensity: (N, 1) float32, and field:NAME: (N, 1) float32.
Scene = Arrays
_FEATURES = ("rgb", "normals", "intensity")


@dataclass(frozen=True)
class SceneSet:
    """Scenes of one split. Only their names are held: a data set of scenes seldom fits into memory.

    Attributes:
        names: one for each of the M scenes, such as `Area_5/office_1`.
        classes: the K class names, all different.
        load: returns the scene of a number from 0 to M - 1. The loaders' own can be pickled, for processes that load.
        groups: M names of what must not be divided between training and held-out scenes, such as scans of one room, or None.
        features: names of features, as `voxelize` takes them, that every scene must have; those alone are given. None for all
            that a scene has.
        codes: K whole numbers that files give the classes, such as LAS classification codes; None for 0 to K - 1.
        varied: whether scenes may differ in what they have, as files of one's own do, unlike those of a released data set.

    Raises:
        InvalidInputError: no class, or two of one name, or another number of groups than of scenes or of codes than of classes.

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
    features: tuple[str, ...] | None = None
    codes: tuple[int, ...] | None = None
    varied: bool = False

    def __post_init__(self) -> None:
        check_class_names("A set of scenes", self.classes)
        if self.codes is not None and len(self.codes) != len(self.classes):
            raise InvalidInputError(
                f"A set of scenes has {count_of(len(self.classes), 'class')} and {count_of(len(self.codes), 'code')}."
            )
        if self.groups is not None and len(self.groups) != len(self.names):
            raise InvalidInputError(
                f"A set of scenes has {count_of(len(self.names), 'name')} and {count_of(len(self.groups), 'group')}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        """One line: how many scenes, their names and the classes."""
        classes = f"{count_of(len(self.classes), 'class')}: {join_words(self.classes)}"
        names = f": {join_words(self.names, most=3)}" if self.names else ""
        return f"SceneSet({count_of(len(self), 'scene')}{names}; {classes})"

    def scene(self, number: int) -> Scene:
        """Reads and checks one scene.

        Raises:
            InvalidInputError: no such number, or a scene whose arrays have other shapes, types or lengths than a `Scene`, no
                point, values that are not finite, labels that are no class or not the set's features; the message names it.
        """
        if not 0 <= number < len(self):
            raise InvalidInputError(f"There is no scene {number}; the set has those from 0 to {len(self) - 1}.")
        scene = self.load(number)
        _check_scene(self.names[number], scene, len(self.classes))
        return scene if self.features is None else select_features(f"Scene {self.names[number]!r}", scene, self.features)

    def reading(self, features: str | Sequence[str]) -> SceneSet:
        """Returns the same scenes with some features alone, which every one of them must have.

        Raises:
            InvalidInputError: unknown features.
        """
        return replace(self, features=parse_features(features))

    def subset(self, rows: NDArray[Any] | Sequence[int]) -> SceneSet:
        """Returns the scenes of the given numbers, in their order, or those that a mask (M,) selects; none is read.

        Raises:
            InvalidInputError: a number that no scene has, a mask of another length, or neither numbers nor a mask.
        """
        chosen = tuple(row_numbers(rows, len(self)).tolist())
        names = tuple(self.names[row] for row in chosen)
        groups = None if self.groups is None else tuple(self.groups[row] for row in chosen)
        return replace(self, names=names, load=partial(_load_chosen, self.load, chosen), groups=groups)


def select_features(owner: str, scene: Scene, features: Sequence[str]) -> Scene:
    """Returns the points and labels of a scene and what features read.

    Args:
        owner: whose the arrays are, with which an error begins.
        scene: labels may be missing.
        features: names, as `parse_features` returns them.

    Raises:
        InvalidInputError: the scene lacks one of them, or it has values that are not finite; the message says what it has.

    Example:
        >>> scan = {"points": np.zeros((1, 3)), "rgb": np.zeros((1, 3), np.uint8), "field:time": np.zeros((1, 1))}
        >>> list(select_features("A scan", scan, ("xyz", "field:time")))
        ['points', 'field:time']
    """
    present = ["xyz", *(name for name in scene if name in _FEATURES or name.startswith(FIELD))]
    present += ["extra"] if scene["points"].shape[1] > 3 else []
    if missing := [name for name in features if name not in (*present, "ones")]:
        raise InvalidInputError(
            f"{owner} has no {', '.join(missing)}, which the features {','.join(features)} ask for; it has "
            f"{', '.join(present)}."
        )
    selected = {name: scene[name] for name in ("points", "labels", *features) if name in scene}
    for name, values in selected.items():
        if not np.isfinite(values).all():
            raise InvalidInputError(f"{owner}: its {name} have values that are NaN or infinite; remove those points.")
    return selected


def check_scenes(scenes: SceneSet, progress: str | None = None) -> None:
    """Reads a scene of a set, and every one where they are `varied`, so that a fault is found before a training and not after.

    Args:
        scenes: to read.
        progress: label of a progress bar; None for no bar.

    Raises:
        InvalidInputError: as `SceneSet.scene`, or no point has a class.
    """
    numbers = range(len(scenes) if scenes.varied else min(len(scenes), 1))
    labelled = 0
    for number in tqdm(numbers, desc=progress, unit="scene", disable=progress is None or len(numbers) < 2):
        labelled += np.count_nonzero(scenes.scene(number)["labels"] != IGNORED)
    if scenes.varied and not labelled:
        raise InvalidInputError(f"No point of the scenes, such as {scenes.names[0]!r}, has a class.")


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
    target = max(1, round(fraction * len(scenes))) if 0 < fraction < 1 else 0
    if not 0 < target < len(scenes) or len(sizes) < 2:
        counts = f"{count_of(len(scenes), 'scene')}" + ("" if scenes.groups is None else f" in {count_of(len(sizes), 'group')}")
        raise InvalidInputError(
            f"A fraction of {fraction} of {counts} cannot be held out: one or more must be held out, and one or more "
            "left to train on."
        )
    held = np.isin(groups, _draw_groups(sizes, target, np.random.default_rng(seed)))
    return scenes.subset(~held), scenes.subset(held)


def _draw_groups(sizes: NDArray[np.int64], target: int, random: np.random.Generator) -> list[int]:
    """Draws groups, at least one and never all, of about as many scenes as the target, which is fewer than there are."""
    drawn: list[int] = []
    lacking = target
    for group in random.permutation(len(sizes)).tolist():
        if sizes[group] <= lacking:
            drawn.append(group)
            lacking -= sizes[group]
    left = np.setdiff1d(np.arange(len(sizes)), drawn)
    nearest = int(left[np.abs(sizes[left] - lacking).argmin()])
    if not drawn or (abs(sizes[nearest] - lacking) < lacking and len(left) > 1):
        drawn.append(nearest)
    alone = int(np.abs(sizes - target).argmin())
    return [alone] if abs(sizes[alone] - target) < abs(sizes[drawn].sum() - target) else drawn


def _load_chosen(load: Callable[[int], Scene], chosen: tuple[int, ...], number: int) -> Scene:
    return load(chosen[number])


def _check_scene(name: str, scene: Scene, count: int) -> None:
    if not {"points", "labels"} <= scene.keys():
        raise InvalidInputError(f"Scene {name!r} must have `points` and `labels`; it has {join_words(sorted(scene))}.")
    points, labels = scene["points"], scene["labels"]
    is_float = points.dtype in (np.float32, np.float64)
    if not is_float or points.ndim != 2 or points.shape[1] not in (3, 4) or not len(points):
        raise InvalidInputError(
            f"Scene {name!r}: points must be float32 or float64 (N, 3) or (N, 4), at least one; got {points.dtype} "
            f"{points.shape}."
        )
    arrays: list[tuple[str, str, tuple[int, ...]]] = [("labels", "int64", ()), ("rgb", "uint8", (3,))]
    arrays += [("normals", "float32", (3,)), ("intensity", "float32", (1,))]
    arrays += [(key, "float32", (1,)) for key in scene if key.startswith(FIELD)]
    for key, dtype, columns in arrays:
        shape = (len(points), *columns)
        if key in scene and (scene[key].dtype != dtype or scene[key].shape != shape):
            actual = f"{scene[key].dtype} {scene[key].shape}"
            raise InvalidInputError(f"Scene {name!r}: {key} must be {dtype} {shape}; got {actual}.")
    for key in ("points", "normals"):
        if key in scene and not np.isfinite(scene[key]).all():
            raise InvalidInputError(f"Scene {name!r}: its {key} have values that are NaN or infinite; remove those points.")
    if not IGNORED <= labels.min() <= labels.max() < count:
        raise InvalidInputError(
            f"Scene {name!r}: labels run from {labels.min()} to {labels.max()}; expected {IGNORED}, for none, to {count - 1}."
        )
