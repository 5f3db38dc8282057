"""Crops of scenes, and batches of them, which follow from their number and a seed alone as those of clouds do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from i2p_zoo.data.batches import Sample, draw_rows
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.scenes import Scene, SceneSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.wording import count_of

_KEPT = 5_000_000  # points kept in memory by each process


@dataclass(frozen=True)
class Cropping:
    """How training crops are cut and augmented.

    Attributes:
        extent: edge of a box about a random point, one number or (x, y, z) in the scenes' unit; None for whole scenes.
        max_points: of a crop; more are drawn from.
        rotate: whether crops are turned about the vertical axis, by any angle.
        scale: crops are scaled by up to this fraction.
    """

    extent: float | tuple[float, float, float] | None = None
    max_points: int | None = 80_000
    rotate: bool = True
    scale: float = 0.05


class SceneBatches(torch.utils.data.Dataset[list[Sample]]):
    """Augmented crops by the number of their batch; a sample is a centred crop as `voxelize` takes it, and (N,) its labels.

    Args:
        scenes: of the training split.
        batch_size: crops a batch.
        seed: of order, crops and augmentation.
        cropping: how crops are cut and augmented.
        augmented: False for the crops as they are.

    Raises:
        InvalidInputError: no scenes, or a batch size below 1.
    """

    def __init__(self, scenes: SceneSet, batch_size: int, seed: int, cropping: Cropping, augmented: bool = True) -> None:
        if not len(scenes) or batch_size < 1:
            raise InvalidInputError(
                "Batches need 1 scene or more and a batch_size of 1 or more; "
                f"got {count_of(len(scenes), 'scene')} and batch_size={batch_size}."
            )
        self.scenes, self.batch_size, self.seed = scenes, batch_size, seed
        self.cropping, self.augmented = cropping, augmented
        self._kept: dict[int, Scene] = {}

    def __getitem__(self, step: int) -> list[Sample]:
        return self.draw(step)

    def draw(self, step: int, part: slice = slice(None)) -> list[Sample]:
        """Returns some samples of a batch; the others are not made, nor their scenes read."""
        rows = draw_rows(len(self.scenes), self.batch_size, self.seed, step)[part]
        return [self._draw(self._read(row), random) for row, random in rows]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # a worker reads its own

    def _read(self, number: int) -> Scene:
        if number in self._kept:
            return self._kept[number]
        scene = self.scenes.scene(number)
        if sum(len(kept["points"]) for kept in self._kept.values()) + len(scene["points"]) <= _KEPT:
            self._kept[number] = scene
        return scene

    def _draw(self, scene: Scene, random: np.random.Generator) -> Sample:
        crop = choose_crop(scene, self.cropping.extent, self.cropping.max_points, random)
        cloud = center(as_cloud(crop))
        return turn(cloud, self.cropping, random) if self.augmented else cloud, crop["labels"]


def choose_crop(scene: Scene, extent: ArrayLike | None, max_points: int | None, random: np.random.Generator) -> Scene:
    """Cuts a box along the axes, its faces included, about a point of the scene that is drawn at random.

    Args:
        scene: whose arrays stay as they are.
        extent: of the box, as `edge_lengths` takes it.
        max_points: how many points to draw of a crop that has more.
        random: numpy's generator.

    Returns:
        The points, at least one, in the scene's order.

    Raises:
        InvalidInputError: an extent that is not positive, `max_points` below 1, or a scene without a point.
    """
    points = scene["points"]
    if max_points is not None and max_points < 1:
        raise InvalidInputError(f"`max_points` must be at least 1; got {max_points}.")
    if not len(points):
        raise InvalidInputError("A scene without a point has no crop.")
    offsets = np.abs(points[:, :3] - points[random.integers(len(points)), :3].astype(np.float64))
    rows = np.flatnonzero((offsets <= edge_lengths(extent) / 2).all(1))
    if max_points is not None and len(rows) > max_points:
        rows = np.sort(random.choice(rows, max_points, replace=False))
    return {name: values[rows] for name, values in scene.items()}


def edge_lengths(extent: ArrayLike | None) -> NDArray[np.float64]:
    """Returns the (3,) edges of a box.

    Args:
        extent: one number or (x, y, z), in the scene's unit; infinite, or None for all three, where it has no bound.

    Raises:
        InvalidInputError: other numbers, or one that is not positive.
    """
    edges = np.asarray(np.inf if extent is None else extent, np.float64)
    if edges.shape not in ((), (3,)) or not (edges > 0).all():
        raise InvalidInputError(f"`extent` must be one or three positive numbers; got {extent!r}.")
    return np.broadcast_to(edges, 3)


def as_cloud(scene: Scene) -> Arrays:
    """Returns a scene without its labels, as `i2p_zoo.voxelize` takes it."""
    return {name: values for name, values in scene.items() if name != "labels"}


def center(cloud: Arrays) -> Arrays:
    """Returns a cloud in the middle of its box in x and y and on its ground in z, so that no place on a map is learned.

    It is moved in doubles and then float32, so that metres in UTM keep their millimetres.
    """
    points = cloud["points"].astype(np.float64)
    low, high = points[:, :3].min(0), points[:, :3].max(0)
    middle = (low + high) / 2
    points[:, :3] -= np.array([middle[0], middle[1], low[2]])
    return {**cloud, "points": points.astype(np.float32)}


def turn(cloud: Arrays, cropping: Cropping, random: np.random.Generator) -> Arrays:
    """Returns a cloud turned about z and scaled at random, in arrays of its own."""
    out = {**cloud, "points": cloud["points"].copy()}
    angle = random.uniform(0, 2 * np.pi) if cropping.rotate else 0.0
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)
    scale = np.float32(random.uniform(1 - cropping.scale, 1 + cropping.scale))
    out["points"][:, :3] = cloud["points"][:, :3] @ rotation.T * scale
    if "normals" in cloud:
        out["normals"] = cloud["normals"] @ rotation.T
    return out
