"""Labels that spread from a few clouds to others that look alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_NEIGHBOURS, _POWER, _SPREAD = 8, 8, 0.8
_STEPS = 60  # 0.8**60 is 1e-6
_LEAST = 1e-12  # of what arrives; less is nothing
_BLOCK = 1024  # rows whose likeness to all others is held at once


def propagate_labels(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Gives clouds without labels those of their neighbours, of their neighbours' neighbours, and so on.

    Each cloud is joined to the 8 nearest by angle, with the eighth power of the cosine for a weight (0 beyond a right angle).
    With the weights A, divided by the roots of both clouds' sums, and the labels Y, the shares are in proportion to
    (I - 0.8 A)^-1 Y (Zhou et al. 2003, "Learning with local and global consistency"; on features of networks: Iscen et al.
    2019, "Label propagation for deep semi-supervised learning").

    Args:
        rows: (M, C) features of length 1, those of labelled clouds first.
        labels: (L,) int64, the classes of the first L clouds.
        classes: their number, K.

    Returns:
        (M, K) shares that add up to 1, in the rows' dtype: of a labelled cloud 1 for its class; all 0 where no label arrives,
        or less than 1e-12 of one.

    Example:
        >>> rows = F.normalize(torch.tensor([[1.0, 0], [0, 1], [3, 1], [1, 3]]), dim=1)
        >>> propagate_labels(rows, torch.tensor([0, 1]), 2).argmax(1).tolist()
        [0, 1, 0, 1]
    """
    first, second, weight = _join_neighbours(rows)
    known = rows.new_zeros(len(rows), classes)
    known[: len(labels)] = F.one_hot(labels, classes).to(rows.dtype)
    shares = known
    for _ in range(_STEPS):
        arriving = torch.zeros_like(known).index_add_(0, first, weight[:, None] * shares[second])
        shares = _SPREAD * arriving + (1 - _SPREAD) * known
    total = shares.sum(1, keepdim=True)
    shares = torch.where(total > _LEAST, shares / total.clamp(min=_LEAST), 0)
    shares[: len(labels)] = known[: len(labels)]
    return shares


def _join_neighbours(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns pairs of neighbours, each in both orders, and their weights, divided by the roots of both rows' sums."""
    count = len(rows)
    keys, likeness = [], []
    for start in range(0, count, _BLOCK):
        block = rows[start : start + _BLOCK] @ rows.T
        number = torch.arange(start, start + len(block))
        block[number - start, number] = -1
        values, nearest = block.topk(min(_NEIGHBOURS, count - 1))
        keys += [(number[:, None] * count + nearest).flatten(), (nearest * count + number[:, None]).flatten()]
        likeness += [values.flatten()] * 2
    joined = torch.cat(keys)
    unique, place = joined.unique(return_inverse=True)
    cosines = rows.new_zeros(len(unique)).scatter_reduce_(0, place, torch.cat(likeness), "amax")  # at least the 0 that is there
    weight = cosines**_POWER
    first, second = unique // count, unique % count
    total = rows.new_zeros(count).index_add_(0, first, weight).clamp(min=torch.finfo(rows.dtype).tiny).sqrt()
    return first, second, weight / (total[first] * total[second])
