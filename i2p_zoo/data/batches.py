"""Batches of clouds. A training batch follows from its number and a seed alone, so that a run can go on at any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2p_zoo.data.augmentation import augment
from i2p_zoo.data.clouds import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import voxelize

Cloud = dict[str, NDArray[Any]]


Sample = tuple[Cloud, Any]


class TrainingBatches(torch.utils.data.Dataset[list[Sample]]):
    """Augmented batches by number: shuffled epochs one after the other, cut into batches; the rest of one opens the next.

    A batch is a list of clouds, each with its label: an int64, or (K,) probabilities.

    Args:
        clouds: the training split.
        batch_size: clouds a batch.
        seed: of order and augmentation.
        augmented: or the clouds as they are.

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
            raise InvalidInputError(f"Batches need clouds ({len(clouds)}) and a batch_size (={batch_size}) of 1 or more.")
        self.clouds, self.batch_size, self.seed, self.augmented = clouds, batch_size, seed, augmented

    def __getitem__(self, step: int) -> list[Sample]:
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = {epoch: self._order(epoch) for epoch in {place // len(self.clouds) for place in places}}
        rows = [int(epochs[place // len(self.clouds)][place % len(self.clouds)]) for place in places]
        return [(self._draw(row, place), self.clouds.labels[row]) for row, place in zip(rows, places, strict=True)]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.clouds))

    def _draw(self, row: int, place: int) -> Cloud:
        cloud = self.clouds.cloud(row)
        return augment(cloud, np.random.default_rng([self.seed, 1, place])) if self.augmented else cloud


def evaluation_batches(clouds: CloudSet, batch_size: int, settings: Any) -> Iterator[SparseTensor]:
    """Yields the clouds in order as sparse tensors, voxelized by a model's settings."""
    for start in range(0, len(clouds), batch_size):
        batch = [clouds.cloud(number) for number in range(start, min(start + batch_size, len(clouds)))]
        yield voxelize(batch, settings.voxel_size, settings.features)
