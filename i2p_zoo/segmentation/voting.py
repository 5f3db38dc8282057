"""Classes of every point of a scene, by votes over blocks that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.scenes import Scene, select_features
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.modules import eval_mode
from i2p_zoo.networks.unet import UNet
from i2p_zoo.segmentation.crops import as_cloud, center, edge_lengths
from i2p_zoo.sparse.device_memory import explain_memory
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.point_values import fix_range

_MOST_BLOCKS = 1_000_000  # along an axis
_SMALLER_BLOCKS = "Divide the scene into smaller blocks by `extent` (`--block`), or take a larger voxel size."


@torch.no_grad()
def segment(
    model: UNet, scene: Scene, extent: ArrayLike | None = None, overlap: float = 0.25, progress: str | None = None
) -> NDArray[np.float32]:
    """Returns the probabilities of the classes of each point.

    Args:
        model: a `UNet`, run in eval mode; every module's mode is put back.
        scene: points, with the features that the network reads; labels are not looked at.
        extent: edge of a block, one number or (x, y, z) in the scene's unit; None for the whole scene at once. Memory grows
            with a block, not with the scene.
        overlap: fraction of a block that it shares with the next; a point's probabilities are averaged over its blocks.
        progress: label of a progress bar; None for no bar.

    Returns:
        (N, K) in the order of the points. Blocks are centred as in training, so a scene may lie anywhere.

    Raises:
        InvalidInputError: no points, an extent or overlap out of range, or the scene lacks what the network reads.
        DivergedError: logits that are not finite.
        DeviceMemoryError: a GPU's memory does not suffice for a block; also a `torch.OutOfMemoryError`.
    """
    points = scene["points"]
    blocks = overlapping_blocks(points, extent, overlap)
    cloud = as_cloud(select_features("The scene", scene, parse_features(model.settings.features)))
    if "rgb" in cloud and cloud["rgb"].dtype != np.uint8:
        (cloud["rgb"],) = fix_range([cloud["rgb"]])  # a dark block may not show it
    votes, seen = np.zeros((len(points), model.num_classes), np.float32), np.zeros(len(points), bool)
    bar = tqdm(total=len(points), unit="point", unit_scale=True, desc=progress, disable=progress is None)
    with eval_mode(model), bar:
        for rows in blocks:
            block = center({name: values[rows] for name, values in cloud.items()})
            with explain_memory(partial(_count_voxels, model, block), _SMALLER_BLOCKS):
                logits = model([block])
                shares = logits.softmax(1).float().cpu().numpy()
            if not logits.isfinite().all():
                raise DivergedError(
                    "The network's outputs are NaN or infinite: its training diverged, or features are out of scale."
                )
            bar.update(int((~seen[rows]).sum()))
            seen[rows] = True
            votes[rows] += shares
    result: NDArray[np.float32] = votes / votes.sum(1, keepdims=True)
    return result


def _count_voxels(model: UNet, block: Arrays) -> int:
    return len(model.settings.voxelize([block])[0].coords)


def overlapping_blocks(points: NDArray[Any], extent: ArrayLike | None, overlap: float = 0.5) -> Iterator[NDArray[np.int64]]:
    """Divides points into boxes along the axes that overlap, so that predictions can be voted over.

    Along each axis the boxes lie at equal distances, the first at the lowest point and the last at the highest.

    Args:
        points: (N, 3) or more columns, of which the first three are coordinates.
        extent: of a box, as `edge_lengths` takes it; no division along an axis without a bound.
        overlap: at least this fraction of a box's edge is shared with the next box; from 0 to less than 1.

    Returns:
        An iterator of (n,) int64 row numbers, n > 0, which together name every point at least once.

    Raises:
        InvalidInputError: no point, one that is not finite, an extent that is not positive or far too small, or another
            overlap.

    Example:
        >>> points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
        >>> [rows.tolist() for rows in overlapping_blocks(points, extent=1.5, overlap=0.25)]
        [[0, 1], [1, 2]]
    """
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise InvalidInputError(f"Points must be (N, 3 + K), at least one; got {points.shape}.")
    if not 0 <= overlap < 1:
        raise InvalidInputError(f"`overlap` must be at least 0 and less than 1; got {overlap}.")
    coordinates = points[:, :3].astype(np.float64)
    if not np.isfinite(coordinates).all():
        raise InvalidInputError("Points have coordinates that are NaN or infinite; remove them.")
    coordinates -= coordinates.min(0)  # so that a scene is divided the same wherever it lies
    intervals = [_intervals(column, edge, overlap) for column, edge in zip(coordinates.T, edge_lengths(extent), strict=True)]
    return _blocks(coordinates, np.arange(len(points)), intervals)


def _intervals(values: NDArray[Any], edge: float, overlap: float) -> NDArray[np.float64]:
    """Returns (2, n), the ends of the intervals along one axis, between which no gap is left by rounding."""
    low, high = values.min(), values.max()
    steps = max(high - low - edge, 0) / (edge * (1 - overlap))
    if steps > _MOST_BLOCKS:
        raise InvalidInputError(
            f"Points from {low:g} to {high:g} take {steps:.2g} blocks of {edge:g}; give larger ones, or remove points far out."
        )
    count = 1 + int(np.ceil(steps))
    starts = np.linspace(low, max(low, high - edge), count)
    ends = np.maximum(starts + edge, np.append(starts[1:], high))
    return np.stack([starts, ends])


def _blocks(
    coordinates: NDArray[np.float64], rows: NDArray[np.int64], intervals: Sequence[NDArray[np.float64]]
) -> Iterator[NDArray[np.int64]]:
    if not intervals:
        yield np.sort(rows)
        return
    ordered = rows[np.argsort(coordinates[rows, 3 - len(intervals)])]
    values = coordinates[ordered, 3 - len(intervals)]
    starts, ends = intervals[0]
    near = slice(np.searchsorted(ends, values[0]), np.searchsorted(starts, values[-1], "right"))  # there may be very many
    firsts, lasts = np.searchsorted(values, starts[near], "left"), np.searchsorted(values, ends[near], "right")
    for number in np.flatnonzero(firsts < lasts):
        yield from _blocks(coordinates, ordered[firsts[number] : lasts[number]], intervals[1:])
