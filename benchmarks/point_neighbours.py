"""What torch-geometric takes of pyg-lib, which PyPI has no wheel of: samples and neighbours in clouds of equal size."""

from __future__ import annotations

import importlib.util
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def search_neighbours_by_numba() -> None:
    """Puts `fps`, `radius` and `knn_graph` of this module in place of torch-geometric's, where pyg-lib is missing."""
    if importlib.util.find_spec("pyg_lib") is None:
        from torch_geometric.nn import pool

        pool.fps, pool.radius, pool.knn_graph = fps, radius, knn_graph


def fps(
    src: Tensor, batch: Tensor, ratio: float, random_start: bool = True, batch_size: int | None = None, **kwargs: Any
) -> Tensor:
    """Samples the farthest points of each cloud; rows of `src`, as `torch_geometric.nn.pool.fps`."""
    clouds = _by_cloud(src, batch).double().numpy()
    first = torch.randint(clouds.shape[1], (len(clouds),)).numpy() if random_start else np.zeros(len(clouds), np.int64)
    rows = _sample_farthest(clouds, int(np.ceil(ratio * clouds.shape[1])), first)
    return torch.from_numpy(rows).flatten()


def radius(
    x: Tensor, y: Tensor, r: float, batch_x: Tensor, batch_y: Tensor, max_num_neighbors: int = 32, **kwargs: Any
) -> Tensor:
    """Finds points of `x` within `r` of those of `y`, the first in order; (2, E) rows of y and x, as torch-geometric's."""
    pairs = _find_within(_by_cloud(x, batch_x).double().numpy(), _by_cloud(y, batch_y).double().numpy(), r, max_num_neighbors)
    centres, members = np.nonzero(pairs >= 0)[0], pairs[pairs >= 0]
    return torch.from_numpy(np.stack([centres, members]))


def knn_graph(x: Tensor, k: int, batch: Tensor, loop: bool = False, **kwargs: Any) -> Tensor:
    """Finds the k nearest rows of `x` within each cloud; (2, E) neighbours and centres, as `torch_geometric`'s."""
    clouds = _by_cloud(x.detach(), batch)
    distances = torch.cdist(clouds, clouds)
    if not loop:
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distances.topk(k, largest=False).indices + clouds.shape[1] * torch.arange(len(clouds)).view(-1, 1, 1)
    return torch.stack([nearest.flatten(), torch.arange(len(x)).repeat_interleave(k)])


def _by_cloud(rows: Tensor, batch: Tensor) -> Tensor:
    return rows.detach().view(int(batch[-1]) + 1, -1, rows.shape[1])


@numba.njit
def _sample_farthest(clouds: NDArray[Any], count: int, first: NDArray[Any]) -> NDArray[Any]:
    samples, points = clouds.shape[:2]
    rows = np.empty((samples, count), np.int64)
    for sample in range(samples):
        distances = np.full(points, np.inf)
        current = first[sample]
        for place in range(count):
            rows[sample, place] = sample * points + current
            farthest, most = current, -1.0
            for point in range(points):
                squared = 0.0
                for axis in range(clouds.shape[2]):
                    squared += (clouds[sample, point, axis] - clouds[sample, current, axis]) ** 2
                distances[point] = min(distances[point], squared)
                if distances[point] > most:
                    farthest, most = point, distances[point]
            current = farthest
    return rows


@numba.njit
def _find_within(clouds: NDArray[Any], centres: NDArray[Any], limit: float, most: int) -> NDArray[Any]:
    samples, points = clouds.shape[:2]
    rows = np.full((samples * centres.shape[1], most), -1)
    for sample in range(samples):
        for centre in range(centres.shape[1]):
            number = 0
            for point in range(points):
                squared = 0.0
                for axis in range(clouds.shape[2]):
                    squared += (clouds[sample, point, axis] - centres[sample, centre, axis]) ** 2
                if squared <= limit * limit and number < most:
                    rows[sample * centres.shape[1] + centre, number] = sample * points + point
                    number += 1
    return rows
