"""Means of features over the eight octants of each cloud's box."""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.sample_boxes import sample_boxes
from i2p_zoo.sparse.tensor import SparseTensor

OCTANTS = 8


def pool_octants(x: SparseTensor) -> Tensor:
    """Averages features over the octants of the box that each sample's sites fill: the second level of a spatial pyramid.

    Args:
        x: (N, C) features. The box leaves out the outermost 1 % of a sample's sites at each end of an axis, as
            `sample_boxes` does; a site in the middle of it belongs to the upper half.

    Returns:
        (B, 8 * C), octant by octant, the upper half of z in the last four; 0 where an octant holds no site. (Lazebnik et al.
        2006, "Beyond bags of features", for images.)

    Example:
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, 4, 4, 4], [0, 4, 4, 5]], dtype=torch.int32)
        >>> x = SparseTensor(torch.tensor([[1.0], [2.0], [4.0]]), coords)
        >>> pool_octants(x)
        tensor([[1., 0., 0., 0., 0., 0., 0., 3.]])
    """
    sample = x.coords[:, 0].long()
    octant = torch.zeros_like(sample)
    for axis in (1, 2, 3):
        low, high = sample_boxes(sample, x.coords[:, axis], x.batch_size)
        octant = 2 * octant + (2 * x.coords[:, axis].long() >= (low + high)[sample])
    index = RowIndex(OCTANTS * sample + octant, OCTANTS * x.batch_size)
    means = index.sum(x.features) / index.counts.clamp(min=1).to(x.dtype)[:, None]
    return means.view(x.batch_size, -1)
