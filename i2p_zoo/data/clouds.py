"""A set of labelled clouds, and the parts that are drawn from it: a held-out split, a few shots of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.unit_sphere import UNIT_SPHERE
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.point_values import fix_range, refuse_masked
from i2p_zoo.wording import count_of, join_words

PerCloud = Sequence[NDArray[Any]] | NDArray[Any]


@dataclass(frozen=True)
class CloudSet:
    """Labelled clouds of one split.

    Attributes:
        points: M clouds, each (N, 3) float32, within the unit sphere where the data set is one of objects: an (M, N, 3) array,
            or a list of arrays of different lengths.
        labels: (M,) int64, or (M, K) float32 probabilities of the classes, as a teacher gives them.
        classes: the K class names, all different.
        normals: like `points`, unit vectors, or None.
        rgb: like `points`, or None; colours of other types than uint8 become fractions of 0 to 1, float32, by the range of all.
        groups: (M,) what must not be divided between training and held-out clouds, such as variants of one object, or None.
        normalization: "unit_sphere" where each cloud is centred on its mean with its farthest point at a distance of 1, as
            `i2p_zoo.data.to_unit_sphere` does; "" for clouds of any other place and size. A network notes it as it trains.
        lacking: why `normals` or `rgb` are None where some clouds have them, such as the file that has none.

    Raises:
        InvalidInputError: lengths that differ, no class or two of one name, an empty cloud, a coordinate that is not finite,
            masked values, colours whose range is in doubt, a label that is no class, or an unknown normalisation.

    Example:
        >>> clouds = CloudSet(np.zeros((2, 5, 3), np.float32), np.array([0, 1]), ("chair", "table"))
        >>> len(clouds), clouds.cloud(0)["points"].shape
        (2, (5, 3))
    """

    points: PerCloud
    labels: NDArray[Any]
    classes: tuple[str, ...]
    normals: PerCloud | None = None
    rgb: PerCloud | None = None
    groups: NDArray[Any] | None = None
    normalization: str = ""
    lacking: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_class_names("A cloud set", self.classes)
        if self.normalization not in ("", UNIT_SPHERE):
            raise InvalidInputError(f"`normalization` must be {UNIT_SPHERE!r} or ''; got {self.normalization!r}.")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("points", "normals", "rgb", "groups")}
        for name, values in arrays.items():
            if values is not None and len(values) != len(self.labels):
                raise InvalidInputError(f"A cloud set has {count_of(len(self.labels), 'label')} and {len(values)} {name}.")
        for name, values in {**arrays, "labels": self.labels}.items():
            refuse_masked(values if isinstance(values, np.ndarray) else list(values or ()), f"`{name}` of a cloud set")
        _check_labels(self.labels, len(self.classes))
        for number, points in enumerate(self.points):
            if points.ndim != 2 or points.shape[1] != 3 or not len(points):
                raise InvalidInputError(f"Cloud {number} must be (N, 3) with at least one point; got shape {points.shape}.")
            if not np.isfinite(points).all():
                raise InvalidInputError(f"Cloud {number} has coordinates that are NaN or infinite.")
            for name in ("normals", "rgb"):
                if arrays[name] is not None and arrays[name][number].shape != points.shape:
                    shape = arrays[name][number].shape
                    raise InvalidInputError(f"`{name}` of cloud {number} must be {points.shape}; got {shape}.")
        if self.rgb is not None and not all(colors.dtype == np.uint8 for colors in self.rgb):
            colors = fix_range(self.rgb)
            object.__setattr__(self, "rgb", np.stack(colors) if isinstance(self.rgb, np.ndarray) else colors)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """One line: how many clouds, of how many points, with which features, and the classes."""
        sizes = [len(points) for points in self.points] or [0]
        size = f"{min(sizes):,d} to {max(sizes):,d} points" if min(sizes) < max(sizes) else count_of(sizes[0], "point")
        features = "".join(f", {name}" for name in ("normals", "rgb") if getattr(self, name) is not None)
        classes = f"{count_of(len(self.classes), 'class')}: {join_words(self.classes)}"
        return f"CloudSet({count_of(len(self), 'cloud')} of {size}{features}; {classes})"

    def cloud(self, number: int) -> Arrays:
        """Returns one cloud as `i2p_zoo.voxelize` takes it: `points` and, where the set has them, `normals` and `rgb`."""
        arrays = {"points": self.points, "normals": self.normals, "rgb": self.rgb}
        return {name: values[number] for name, values in arrays.items() if values is not None}

    def require_features(self, features: str | Sequence[str]) -> None:
        """Raises InvalidInputError, in the words of a data set, where features that a network reads are not in the clouds.

        Example:
            >>> clouds = CloudSet(np.zeros((1, 5, 3)), np.array([0]), ("chair",))
            >>> clouds.require_features("xyz,normals")
            Traceback (most recent call last):
            ...
            i2p_zoo.errors.InvalidInputError: The clouds have no normals, which the features xyz,normals need.
        """
        names = parse_features(features)
        present = {"xyz", "ones", *self.cloud(0)} if len(self) else set(names)
        for name in names:
            if name not in present:
                reason = f" {self.lacking[name]}" if name in self.lacking else ""
                raise InvalidInputError(f"The clouds have no {name}, which the features {','.join(names)} need.{reason}")

    def subset(self, rows: NDArray[Any] | Sequence[int]) -> CloudSet:
        """Returns the clouds of the given numbers, in their order, or those that a mask (M,) of truth values selects.

        Raises:
            InvalidInputError: a number that no cloud has, a mask of another length, or neither numbers nor a mask.
        """
        chosen = row_numbers(rows, len(self))

        def take(values: Any) -> Any:
            return values[chosen] if isinstance(values, np.ndarray) else [values[row] for row in chosen]

        parts = {name: take(getattr(self, name)) for name in ("normals", "rgb", "groups") if getattr(self, name) is not None}
        return replace(self, points=take(self.points), labels=self.labels[chosen], **parts)

    def fingerprint(self) -> bytes:
        """Hashes the classes, labels, points and features (SHA-256)."""
        digest = hashlib.sha256(repr((self.classes, self.labels.shape)).encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        for values in (self.points, self.normals, self.rgb):
            for cloud in () if values is None else values:
                digest.update(repr(cloud.shape).encode() + np.ascontiguousarray(cloud).tobytes())
        return digest.digest()

    def hard_labels(self) -> NDArray[np.int64]:
        """Returns (M,) the class of each cloud; of soft labels the likeliest."""
        return (self.labels.argmax(1) if self.labels.ndim == 2 else self.labels).astype(np.int64)


def check_class_names(owner: str, classes: Sequence[str]) -> None:
    """Raises InvalidInputError, which begins with the owner, for no class or two of one name."""
    if not classes or len(set(classes)) < len(classes):
        raise InvalidInputError(f"{owner} needs at least one class and different names; got {join_words(classes) or 'none'}.")


def row_numbers(rows: NDArray[Any] | Sequence[int], count: int) -> NDArray[np.int64]:
    """Returns the numbers that rows of a set have, from such numbers or a mask.

    Raises:
        InvalidInputError: a number that no row has, a mask of another length, or neither numbers nor a mask.
    """
    chosen = np.asarray(rows)
    if chosen.dtype == np.bool_ and chosen.shape == (count,):
        return np.flatnonzero(chosen)
    if chosen.shape == (0,):
        return np.zeros(0, np.int64)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise InvalidInputError(f"Rows must be integers or a mask ({count},); got {chosen.dtype} {chosen.shape}.")
    if not 0 <= chosen.min() <= chosen.max() < count:
        raise InvalidInputError(f"Rows {chosen.min()} to {chosen.max()} are asked for of a set of {count}.")
    return chosen.astype(np.int64)


def _check_labels(labels: NDArray[Any], count: int) -> None:
    if labels.ndim == 2:
        if labels.shape[1] != count or labels.dtype.kind != "f" or not np.isfinite(labels).all():
            raise InvalidInputError(f"Soft labels must be (M, {count}) finite floats; got {labels.dtype} {labels.shape}.")
        return
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InvalidInputError(f"Labels must be (M,) integers or (M, {count}) floats; got {labels.dtype} {labels.shape}.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        raise InvalidInputError(f"Labels run from {labels.min()} to {labels.max()} for {count_of(count, 'class')}.")


def hold_out(clouds: CloudSet, fraction: float, seed: int = 0) -> tuple[CloudSet, CloudSet]:
    """Divides a training split into one to train on and one to choose by, class by class; a group stays on one side.

    Args:
        clouds: the training split.
        fraction: of each class's clouds to hold out, as near as its groups allow, at least one.
        seed: of the choice.

    Returns:
        The clouds to train on and those held out.

    Raises:
        InvalidInputError: a fraction outside 0 to 1, or a class that cannot be divided.

    Example:
        >>> clouds = CloudSet(np.zeros((8, 1, 3), np.float32), np.arange(8) % 2, ("a", "b"))
        >>> [len(part) for part in hold_out(clouds, 0.25)]
        [6, 2]
    """
    if not 0 < fraction < 1:
        raise InvalidInputError(f"The held-out fraction must lie between 0 and 1; got {fraction}.")
    random = np.random.default_rng(seed)
    labels = clouds.hard_labels()
    groups = np.arange(len(clouds)) if clouds.groups is None else np.unique(clouds.groups, return_inverse=True)[1]
    held: set[int] = set()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        target, taken = max(1, round(fraction * len(rows))), int(np.isin(groups[rows], list(held)).sum())
        for group in random.permutation(np.unique(groups[rows])):
            members = rows[groups[rows] == group]
            if int(group) in held or taken >= target or taken + len(members) >= len(rows):
                continue
            if taken == 0 or taken + len(members) <= 1.5 * target:
                held.add(int(group))
                taken += len(members)
        if not taken:
            counts = f"{count_of(len(rows), 'training cloud')} in {count_of(len(np.unique(groups[rows])), 'group')}"
            raise InvalidInputError(
                f"Class {clouds.classes[label]!r} has {counts}: none can be held out, since some must be left to train on."
            )
    mask = np.isin(groups, list(held))
    lost = np.setdiff1d(labels, labels[~mask])
    if len(lost):
        raise InvalidInputError(
            f"Every cloud of class {clouds.classes[lost[0]]!r} is in a group with held-out clouds of other classes: hold out "
            "less."
        )
    return clouds.subset(~mask), clouds.subset(mask)


def choose_shots(clouds: CloudSet, shots: int, seed: int = 0) -> CloudSet:
    """Draws the same number of clouds of each class; the same seed draws the same ones, and more shots contain fewer.

    Args:
        clouds: the training split.
        shots: clouds a class.
        seed: of the draw.

    Raises:
        InvalidInputError: fewer than 1 shot, or a class with fewer clouds.

    Example:
        >>> clouds = CloudSet(np.zeros((8, 1, 3), np.float32), np.arange(8) % 2, ("a", "b"))
        >>> choose_shots(clouds, 2).labels.tolist()
        [0, 0, 1, 1]
    """
    return divide_shots(clouds, shots, seed)[0]


def divide_shots(clouds: CloudSet, shots: int, seed: int = 0) -> tuple[CloudSet, CloudSet]:
    """Returns what `choose_shots` draws, and the clouds that are left, in their order; raises as it does."""
    if shots < 1:
        raise InvalidInputError(f"`shots` must be at least 1; got {shots}.")
    labels = clouds.hard_labels()
    counts = np.bincount(labels, minlength=len(clouds.classes))
    if counts.min(initial=shots) < shots:
        scarce = [f"{name} ({count})" for name, count in zip(clouds.classes, counts, strict=True) if count < shots]
        raise InvalidInputError(
            f"{count_of(shots, 'shot')} of each class are asked for, and there are fewer clouds of {join_words(scarce)}."
        )
    chosen = [
        np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))[:shots]
        for label in range(len(clouds.classes))
    ]
    drawn = np.concatenate(chosen)
    return clouds.subset(drawn), clouds.subset(np.setdiff1d(np.arange(len(clouds)), drawn))


def join_clouds(first: CloudSet, second: CloudSet) -> CloudSet:
    """Returns the clouds of both sets, with the features that both have.

    Raises:
        InvalidInputError: other classes, or clouds that were centred and scaled in another way.
    """
    for name in ("classes", "normalization"):
        if getattr(first, name) != getattr(second, name):
            raise InvalidInputError(
                f"Only clouds of the same {name} are joined; got {getattr(first, name)!r} and {getattr(second, name)!r}."
            )
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ("normals", "rgb")}
    features: dict[str, Any] = {name: [*one, *other] for name, (one, other) in pairs.items() if one is not None is not other}
    labels = np.concatenate([first.hard_labels(), second.hard_labels()])
    return CloudSet([*first.points, *second.points], labels, first.classes, normalization=first.normalization, **features)
