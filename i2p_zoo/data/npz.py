"""Labelled point clouds: reading, augmenting and batching them."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.sparse_tensor import SparseTensor
from i2p_zoo.voxelization import voxelize


@dataclass(frozen=True)
class CloudSet:
    """Labelled clouds of one split.

    Attributes:
        points: (M, N, 3) float32, each cloud within the unit sphere.
        labels: (M,) int64.
        classes: the class names.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load_npz(path: str | os.PathLike[str]) -> tuple[CloudSet, CloudSet]:
    """Reads a classification file: `points` (M, N, 3), `label` (M,), `split` (M,) 0 train and 1 test, `classes`.

    Each cloud is scaled into the unit sphere by `scale` (M,), where the file has it, else by its largest norm.

    Args:
        path: an .npz file; pickled arrays are refused.

    Returns:
        The train and the test split.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: an array is missing or does not fit the others.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. The repository carries tests/data/kicad-mini.npz.")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInputError(f"{path}: no readable .npz file: {error}") from error
    missing = sorted({"points", "label", "split", "classes"} - arrays.keys())
    if missing:
        raise InvalidInputError(f"{path}: lacks the arrays {missing}; it has {sorted(arrays)}.")
    _check_arrays(path, arrays)
    points, labels = arrays["points"].astype(np.float32), arrays["label"].astype(np.int64)
    classes = tuple(str(name) for name in arrays["classes"])
    scale = arrays["scale"] if "scale" in arrays else np.linalg.norm(points, axis=2).max(1)
    points = points / np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)[:, None, None]
    train, test = arrays["split"] == 0, arrays["split"] == 1
    return CloudSet(points[train], labels[train], classes), CloudSet(points[test], labels[test], classes)


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    points, label, split, classes = (arrays[name] for name in ("points", "label", "split", "classes"))
    fits = points.ndim == 3 and points.shape[1] > 0 and points.shape[2] == 3 and label.shape == split.shape == points.shape[:1]
    if not fits or classes.ndim != 1:
        shapes = {name: arrays[name].shape for name in ("points", "label", "split", "classes")}
        raise InvalidInputError(f"{path}: needs points (M, N, 3), label (M,), split (M,) and classes (K,); found {shapes}.")
    for name, kinds in (("points", "fiu"), ("label", "iu"), ("split", "iub")):
        if arrays[name].dtype.kind not in kinds:
            raise InvalidInputError(f"{path}: {name} holds values of type {arrays[name].dtype}, not numbers that fit.")
    if len(label) and not (label.min() >= 0 and label.max() < len(classes)):
        raise InvalidInputError(f"{path}: labels run from {label.min()} to {label.max()} for {len(classes)} classes.")
    if "scale" in arrays:
        scale = arrays["scale"]
        if scale.shape != label.shape or not (scale > 0).all():
            raise InvalidInputError(
                f"{path}: scale must be {label.shape} positive numbers; found {scale.shape}, {scale[:3]}..."
            )


def augment(points: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Returns new (N, 3) points, scaled, shifted and jittered as Image2Point does for ModelNet40; the input stays.

    Scale 0.9 to 1.1 an axis (with probability 0.9), shift +-0.2 (0.9), jitter +-0.0125 a point (0.7).
    """
    points = points.copy()
    if random.random() < 0.9:
        points = points * random.uniform(0.9, 1.1, 3).astype(np.float32)
    if random.random() < 0.9:
        points = points + random.uniform(-0.2, 0.2, 3).astype(np.float32)
    if random.random() < 0.7:
        points = points + random.uniform(-0.0125, 0.0125, points.shape).astype(np.float32)
    return points


def training_batches(clouds: CloudSet, batch_size: int, seed: int) -> Iterator[tuple[list[NDArray[np.float32]], Tensor]]:
    """Yields augmented batches without end: shuffled epochs, all random numbers from `seed`.

    Yields:
        `batch_size` clouds (N, 3) and their labels (batch_size,) int64; the rest of an epoch opens the next batch.
    """
    random = np.random.default_rng(seed)
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += random.permutation(len(clouds)).tolist()
        chosen, queue = queue[:batch_size], queue[batch_size:]
        yield [augment(clouds.points[i], random) for i in chosen], torch.from_numpy(clouds.labels[chosen])


def evaluation_batches(clouds: CloudSet, batch_size: int, settings: Any) -> Iterator[SparseTensor]:
    """Yields the clouds in order as sparse tensors, voxelized by a model's settings."""
    for start in range(0, len(clouds), batch_size):
        yield voxelize(list(clouds.points[start : start + batch_size]), settings.voxel_size, settings.features)
