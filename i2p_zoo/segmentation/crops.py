"""Batches of crops of scenes. As in classification, a batch follows from its number and a seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2p_zoo.data.scenes import Scene, SceneSet, choose_crop
from i2p_zoo.errors import InvalidInputError

_KEPT = 5_000_000  # points kept in memory by each process


@dataclass(frozen=True)
class Cropping:
    """How training crops are cut and augmented.

    Attributes:
        extent: edge of a box about a random point, one number or (x, y, z) in the scenes' unit; None for whole scenes.
        max_points: of a crop; more are drawn from.
        rotate: turn crops about the vertical axis by any angle.
        scale: crops are scaled by up to this fraction.
    """

    extent: float | tuple[float, float, float] | None = None
    max_points: int | None = 80_000
    rotate: bool = True
    scale: float = 0.05


class SceneBatches(torch.utils.data.Dataset[list[Any]]):
    """Augmented crops by the number of their batch; a sample is a centred crop as `voxelize` takes it, and (N,) its labels.

    Args:
        scenes: of the training split.
        batch_size: crops a batch.
        seed: of order, crops and augmentation.
        cropping: how.
        augmented: or the crops as they are.

    Raises:
        InvalidInputError: no scenes, or a batch size below 1.
    """

    def __init__(self, scenes: SceneSet, batch_size: int, seed: int, cropping: Cropping, augmented: bool = True) -> None:
        if not len(scenes) or batch_size < 1:
            raise InvalidInputError(f"Batches need scenes ({len(scenes)}) and a batch_size (={batch_size}) of 1 or more.")
        self.scenes, self.batch_size, self.seed = scenes, batch_size, seed
        self.cropping, self.augmented = cropping, augmented
        self._kept: dict[int, Scene] = {}

    def __getitem__(self, step: int) -> list[Any]:
        samples = []
        for place in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, position = divmod(place, len(self.scenes))
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.scenes))
            random = np.random.default_rng([self.seed, 1, place])
            samples.append(self._draw(self._read(int(order[position])), random))
        return samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # a worker reads its own

    def _read(self, number: int) -> Scene:
        if number in self._kept:
            return self._kept[number]
        scene = self.scenes.scene(number)
        if sum(len(kept["points"]) for kept in self._kept.values()) + len(scene["points"]) <= _KEPT:
            self._kept[number] = scene
        return scene

    def _draw(self, scene: Scene, random: np.random.Generator) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        cropping = self.cropping
        extent = np.inf if cropping.extent is None else cropping.extent
        crop, _ = choose_crop(scene, extent=extent, max_points=cropping.max_points, random=random)
        cloud = center(as_cloud(crop))
        return turn(cloud, cropping, random) if self.augmented else cloud, crop["labels"]


def as_cloud(scene: Scene) -> dict[str, NDArray[Any]]:
    """Returns a scene's points, normals and colours, as `i2p_zoo.voxelize` takes them."""
    return {name: scene[name] for name in ("points", "normals", "rgb") if name in scene}


def center(cloud: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns a cloud in the middle of its box in x and y and on its ground in z, so that no place on a map is learned."""
    low, high = cloud["points"][:, :3].min(0), cloud["points"][:, :3].max(0)
    middle = (low.astype(np.float64) + high) / 2
    points = cloud["points"].copy()
    points[:, :3] -= np.array([middle[0], middle[1], low[2]], np.float64)
    return {**cloud, "points": points}


def turn(cloud: dict[str, NDArray[Any]], cropping: Cropping, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Returns a cloud turned about z and scaled at random; the given one stays."""
    out = dict(cloud)
    angle = random.uniform(0, 2 * np.pi) if cropping.rotate else 0.0
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], np.float32)
    points = cloud["points"].copy()
    points[:, :3] = points[:, :3] @ rotation.T * np.float32(random.uniform(1 - cropping.scale, 1 + cropping.scale))
    out["points"] = points
    if "normals" in cloud:
        out["normals"] = cloud["normals"] @ rotation.T
    return out
