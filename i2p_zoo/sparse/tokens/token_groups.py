"""Groups of rows: which belong together, stacked into dense blocks of equal size."""

from __future__ import annotations

import torch
from torch import Tensor


class GroupBlocks:
    """Groups of rows, those of one size stacked.

    Attributes:
        parts: for each size (G,) int64 group ids and (G, n) int64 rows.
        count: number of groups, the empty ones included.
    """

    def __init__(self, ids: Tensor, count: int, sizes: Tensor | None = None) -> None:
        self.ids, self.count, self.total = ids, count, len(ids)
        self.lengths = torch.bincount(ids, minlength=count)
        starts = self.lengths.cumsum(0) - self.lengths
        order = ids.argsort(stable=True)
        roles = self.lengths if sizes is None else sizes  # groups that are stacked have the same kind
        self.parts: list[tuple[Tensor, Tensor]] = []
        for role in roles.unique().tolist():
            groups = (roles == role).nonzero().squeeze(1)
            length = int(self.lengths[groups[0]])
            index = starts[groups][:, None] + torch.arange(length, device=ids.device)
            self.parts.append((groups, order[index]))
        flat = torch.cat([rows.flatten() for _, rows in self.parts])
        self.whole = len(self.parts) == 1 and torch.equal(flat, torch.arange(self.total, device=ids.device))
        self.inverse = None if self.whole else flat.argsort()

    def gather(self, values: Tensor) -> list[Tensor]:
        """(rows, ...) to a (G, n, ...) for each size."""
        if self.whole:
            return [values.unflatten(0, self.parts[0][1].shape)]
        return [values.index_select(0, rows.flatten()).unflatten(0, rows.shape) for _, rows in self.parts]

    def scatter(self, blocks: list[Tensor]) -> Tensor:
        """Undoes `gather`."""
        if self.whole:
            return blocks[0].flatten(0, 1)
        return torch.cat([block.flatten(0, 1) for block in blocks]).index_select(0, self.inverse)

    def scatter_groups(self, blocks: list[Tensor]) -> Tensor:
        """(G, ...) for each size to (count, ...), one row a group."""
        order = torch.cat([groups for groups, _ in self.parts])
        joined = torch.cat(blocks)
        if torch.equal(order, torch.arange(len(order), device=order.device)):
            return joined
        return joined.index_select(0, order.argsort())


def segment(values: Tensor, index: Tensor, count: int, reduction: str) -> Tensor:
    """Reduces (rows, ...) to (count, ...) by row index; nothing gives 0."""
    shape = (count, *values.shape[1:])
    if reduction == "amax":
        wide = index.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        out = values.new_full(shape, -torch.inf).scatter_reduce(0, wide, values, "amax")
        return out.masked_fill(out == -torch.inf, 0)
    out = values.new_zeros(shape).index_add(0, index, values)
    if reduction == "mean":
        number = torch.bincount(index, minlength=count).clamp(min=1)
        out = out / number.view(-1, *[1] * (values.ndim - 1)).to(out.dtype)
    return out
