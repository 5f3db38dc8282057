"""A set of labelled clouds, and the parts that are drawn from it: a held-out split, a few shots of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.point_features import parse_features

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
        rgb: like `points`, uint8 or fractions, or None.
        groups: (M,) what must not be divided between training and held-out clouds, such as variants of one object, or None.
        lacking: why `normals` or `rgb` are None where some clouds have them, such as the file that has none.

    Raises:
        InvalidInputError: lengths that differ, no class or two of one name, an empty cloud, a coordinate that is not finite, a
            label that is no class.

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
    lacking: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_class_names("A cloud set", self.classes)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("points", "normals", "rgb", "groups")}
        for name, values in arrays.items():
            if values is not None and len(values) != len(self.labels):
                raise InvalidInputError(f"A cloud set has {len(self.labels)} labels and {len(values)} {name}.")
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

    def __len__(self) -> int:
        return len(self.labels)

    def cloud(self, number: int) -> Arrays:
        """Returns one cloud as `i2p_zoo.voxelize` takes it: `points` and, where the set has them, `normals` and `rgb`."""
        arrays = {"points": self.points, "normals": self.normals, "rgb": self.rgb}
        return {name: values[number] for name, values in arrays.items() if values is not None}

    def check_features(self, features: str | Sequence[str]) -> None:
        """Raises InvalidInputError, which says what the set has, where it lacks one of the features that a network reads."""
        present = [name for name in ("normals", "rgb") if getattr(self, name) is not None]
        for name in parse_features(features):
            if name in ("normals", "rgb") and name not in present:
                has = " and ".join(["coordinates", *present])
                raise InvalidInputError(
                    f"The feature {name!r} is missing: the data set has {has}. {self.lacking.get(name, '')}".strip()
                )

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
        raise InvalidInputError(f"{owner} needs at least one class and different names; got {classes}.")


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
        raise InvalidInputError(f"Labels run from {labels.min()} to {labels.max()} for {count} classes.")


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
            raise InvalidInputError(
                f"Class {clouds.classes[label]!r} has {len(rows)} training clouds in {len(np.unique(groups[rows]))} groups: "
                "none can be held out, since some must be left to train on."
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
    if shots < 1:
        raise InvalidInputError(f"`shots` must be at least 1; got {shots}.")
    labels = clouds.hard_labels()
    counts = np.bincount(labels, minlength=len(clouds.classes))
    if counts.min(initial=shots) < shots:
        scarce = {name: int(count) for name, count in zip(clouds.classes, counts, strict=True) if count < shots}
        raise InvalidInputError(f"{shots} shots of each class are asked for, but there are fewer clouds of {scarce}.")
    chosen = [
        np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))[:shots]
        for label in range(len(clouds.classes))
    ]
    return clouds.subset(np.concatenate(chosen))
