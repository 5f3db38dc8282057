"""The simplest rival: the class of the training cloud whose shape is nearest, by the Chamfer distance."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from i2p_zoo.data import CloudSet
from i2p_zoo.experiments.run_folder import METRICS, read_json, write_json
from i2p_zoo.finetune.evaluation import count_accuracy

_POINTS = 512
_AT_ONCE = 32


def run_nearest_neighbour(
    train_set: CloudSet, test_set: CloudSet, folder: Path, progress: str | None = None, points: int = _POINTS
) -> dict[str, Any]:
    """Gives each test cloud the class of its nearest training cloud, and measures how often that is right.

    Args:
        train_set, test_set: labelled clouds.
        folder: gets metrics.json; where it holds that of the same clouds, nothing is computed.
        progress: label of a progress bar.
        points: how many of a cloud are compared, drawn evenly from their order.

    Returns:
        What metrics.json holds: `test` with top1, mean_class and per_class as fractions, and `seconds`.

    Raises:
        CheckpointError: a metrics.json that cannot be read.
        OSError: it cannot be written.
    """
    described = {
        "method": "chamfer",
        "points": points,
        "sha256": {"train": train_set.fingerprint().hex(), "test": test_set.fingerprint().hex()},
    }
    if (folder / METRICS).is_file() and described.items() <= (metrics := read_json(folder / METRICS)).items():
        return metrics
    start = time.perf_counter()
    candidates, queries = (torch.stack([_sample(c, points) for c in s.points]) for s in (train_set, test_set))
    bar = tqdm(queries, desc=progress, disable=progress is None)
    nearest = [int(chamfer_distances(query, candidates).argmin()) for query in bar]
    accuracy = count_accuracy(train_set.hard_labels()[nearest], test_set)
    metrics = {**described, "test": accuracy.to_dict(), "trained": 0, "total": 0, "seconds": time.perf_counter() - start}
    write_json(folder / METRICS, metrics)
    return metrics


def _sample(cloud: Any, points: int) -> Tensor:
    """(points, 3) of a cloud's, evenly spread over their order; a smaller cloud's come several times."""
    return torch.from_numpy(np.asarray(cloud, np.float32)[np.linspace(0, len(cloud) - 1, points).round().astype(int)])


def chamfer_distances(query: Tensor, candidates: Tensor) -> Tensor:
    """Measures how far clouds are from one: the mean squared distance to the nearest point, there and back.

    Args:
        query: (N, 3) floating point.
        candidates: (M, N, 3).

    Returns:
        (M,) distances (Fan et al. 2017, "A point set generation network", section 4).

    Example:
        >>> one = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
        >>> chamfer_distances(one, torch.stack([one, one + torch.tensor([0.0, 0, 2])])).tolist()
        [0.0, 8.0]
    """
    norms = query.square().sum(1)
    distances = []
    for part in candidates.split(_AT_ONCE):
        squared = norms[:, None] + part.square().sum(2)[:, None] - 2 * query @ part.transpose(1, 2)
        squared.clamp_(min=0)
        distances.append(squared.amin(1).mean(1) + squared.amin(2).mean(1))
    return torch.cat(distances)
