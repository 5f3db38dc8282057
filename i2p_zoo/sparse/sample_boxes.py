"""The boxes that the samples of a batch stand in, whatever a few stray voxels do, and their places on a canvas."""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_zoo.sparse.row_index import count_rows

STRAYS = 0.01
"""The share of a sample's voxels that its box leaves out at each end of an axis."""


def sample_boxes(samples: Tensor, column: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Finds where each sample begins and ends along an axis, but for its outermost voxels: 1 % at each end, rounded down.

    Args:
        samples: (N,) the sample of each voxel.
        column: (N,) integer coordinates along the axis.
        batch_size: number of samples.

    Returns:
        (batch_size,) int64 lowest and highest coordinate; 0 for a sample without voxels.

    Example:
        >>> sample_boxes(torch.tensor([0, 0, 1]), torch.tensor([-2, 5, 7]), 2)
        (tensor([-2,  7]), tensor([5, 7]))
    """
    samples, column = samples.long(), column.long()
    if not len(column):
        return column.new_zeros(batch_size), column.new_zeros(batch_size)
    ordered = ((samples << 33) + column).sort().values  # 33 bits hold any int32 with its sign
    counts = count_rows(samples, batch_size)
    starts = counts.cumsum(0) - counts
    strays = (counts.double() * STRAYS).long()
    ends = []
    for rows in (starts + strays, starts + counts - 1 - strays):
        value = ordered[rows.clamp(0, len(ordered) - 1)] - (torch.arange(batch_size, device=column.device) << 33)
        ends.append(torch.where(counts > 0, value, 0))
    return ends[0], ends[1]


def fit_places(coordinates: Tensor, low: Tensor, high: Tensor, extent: int, *, centred: bool) -> Tensor:
    """Finds the places of coordinates on a side of the canvas.

    Args:
        coordinates: (N,) int64.
        low, high: (N,) int64, where the box of each one's sample begins and ends.
        extent: of the canvas.
        centred: whether boxes are to be moved to the middle of the canvas, if they are no longer than it.

    Returns:
        (N,) int64, 0 <= i < extent. A longer box is shrunk to fit; what is beyond all the same stands at the edge.

    Example:
        >>> at = torch.tensor([3, 4, 9])
        >>> fit_places(at, torch.full_like(at, 3), torch.full_like(at, 10), 4, centred=False)
        tensor([0, 0, 3])
    """
    length = high - low + 1
    shrunk = torch.div((2 * (coordinates - low) + 1) * extent, 2 * length, rounding_mode="floor")
    if centred:
        coordinates = coordinates - low + torch.div(extent - length, 2, rounding_mode="floor")
    return torch.where(length > extent, shrunk, coordinates).clamp(0, extent - 1)
