"""Batches of clouds. A training batch follows from its number and a seed alone, so that a run can go on at any step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import make_voxels
from i2p_zoo.wording import count_of

Sample = tuple[Arrays, Any]


class TrainingBatches(torch.utils.data.Dataset[list[Sample]]):
    """Augmented batches by number: shuffled epochs one after the other, cut into batches; the rest of one opens the next.

    A batch is a list of clouds, each with its label: an int64, or (K,) probabilities.

    Args:
        clouds: the training split.
        batch_size: clouds a batch.
        seed: of order and augmentation.
        augmented: False for the clouds as they are.

    Raises:
        InvalidInputError: no clouds, or a batch size below 1.

    Example:
        >>> clouds = CloudSet(np.zeros((3, 5, 3), np.float32), np.arange(3), ("a", "b", "c"))
        >>> (cloud, label), _ = TrainingBatches(clouds, 2, seed=0)[7]
        >>> cloud["points"].shape, label in (0, 1, 2)
        ((5, 3), True)
    """

    def __init__(self, clouds: CloudSet, batch_size: int, seed: int, augmented: bool = True) -> None:
        if not len(clouds) or batch_size < 1:
            raise InvalidInputError(
                "Batches need 1 cloud or more and a batch_size of 1 or more; "
                f"got {count_of(len(clouds), 'cloud')} and batch_size={batch_size}."
            )
        self.clouds, self.batch_size, self.seed, self.augmented = clouds, batch_size, seed, augmented

    def __getitem__(self, step: int) -> list[Sample]:
        return self.draw(step)

    def draw(self, step: int, part: slice = slice(None)) -> list[Sample]:
        """Returns some samples of a batch; the others are not made."""
        samples = []
        for row, random in draw_rows(len(self.clouds), self.batch_size, self.seed, step)[part]:
            cloud = self.clouds.cloud(row)
            samples.append((augment(cloud, random) if self.augmented else cloud, self.clouds.labels[row]))
        return samples


def draw_rows(count: int, batch_size: int, seed: int, step: int) -> list[tuple[int, np.random.Generator]]:
    """Returns the rows of a batch of a set of so many, and for each the generator of its augmentation.

    Epochs are shuffled one after the other; what is left of one opens the first batch of the next.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = {place // count for place in places}
    orders = {epoch: np.random.default_rng([seed, 0, epoch]).permutation(count) for epoch in epochs}
    return [(int(orders[place // count][place % count]), np.random.default_rng([seed, 1, place])) for place in places]


def augment(cloud: Mapping[str, NDArray[Any]], random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Scales, shifts and jitters a cloud as Image2Point does for ModelNet40: no rotation.

    Scale 0.9 to 1.1 an axis (with probability 0.9), shift +-0.2 (0.9), jitter +-0.0125 a point (0.7).

    Args:
        cloud: `points` (N, 3) float32, and `normals` and `rgb` where there are any.
        random: the generator of the draws.

    Returns:
        A new cloud. Normals follow the scale; colours stay.

    Example:
        >>> augment({"points": np.ones((2, 3), np.float32)}, np.random.default_rng(0))["points"].dtype
        dtype('float32')
    """
    out = dict(cloud)
    points = cloud["points"].copy()
    if random.random() < 0.9:
        scale = random.uniform(0.9, 1.1, 3).astype(np.float32)
        points = points * scale
        if "normals" in cloud:
            normals = cloud["normals"] / scale  # of a plane: by the inverse transpose
            out["normals"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-12))
    if random.random() < 0.9:
        points = points + random.uniform(-0.2, 0.2, 3).astype(np.float32)
    if random.random() < 0.7:
        points = points + random.uniform(-0.0125, 0.0125, points.shape).astype(np.float32)
    out["points"] = points
    return out


def move_cloud(cloud: dict[str, Any], offset: float) -> dict[str, Any]:
    """Returns a cloud moved by an offset along x, y and z; for 0 the cloud itself, to the bit."""
    if not offset:
        return cloud
    points = cloud["points"].astype(np.result_type(cloud["points"], np.float32))
    points[:, :3] += points.dtype.type(offset)
    return {**cloud, "points": points}


class Voxelizer(Protocol):
    """A model's settings, as far as they are about voxels."""

    @property
    def features(self) -> str:
        """What a point carries into its voxel."""

    def voxelize(self, clouds: Any) -> tuple[SparseTensor, torch.Tensor]:
        """Gathers clouds into voxels as the model reads them."""


class VoxelBatch(NamedTuple):
    """Clouds that a network reads at once, with their labels: tensors alone, which go from one process to another.

    Attributes:
        coords: (N, 4) int32, as `voxelize` sorts them.
        features: (N, C).
        batch_size: number of clouds.
        labels: (B,) int64 classes of the clouds, (B, K) float32 probabilities of them, or (P,) int64 classes of the points.
        points: (P, 3), one cloud after the other, where points are classified.
        rows: (P,) int64, of each point the row of its voxel.
    """

    coords: torch.Tensor
    features: torch.Tensor
    batch_size: int
    labels: torch.Tensor
    points: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    @property
    def voxels(self) -> SparseTensor:
        """The clouds as a sparse tensor."""
        return make_voxels(self.coords, self.features, self.batch_size)

    def to(self, device: torch.device) -> VoxelBatch:
        """Moves it to a device, from pinned memory without waiting for it."""
        moved = [part.to(device, non_blocking=True) if isinstance(part, torch.Tensor) else part for part in self]
        return VoxelBatch(*moved)  # type: ignore[arg-type]


def evaluation_batches(clouds: CloudSet, batch_size: int, settings: Voxelizer, offset: float = 0.0) -> Iterator[SparseTensor]:
    """Yields the clouds in order as sparse tensors, voxelized by a model's settings, each moved by an offset along all axes."""
    clouds.require_features(settings.features)
    for start in range(0, len(clouds), batch_size):
        batch = [move_cloud(clouds.cloud(number), offset) for number in range(start, min(start + batch_size, len(clouds)))]
        yield settings.voxelize(batch)[0]
