"""Groups of rows: which belong together, stacked into dense blocks of one size or nearly one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_REPEATED_PAIRS = 8192  # what one more block costs: about 0.1 ms on a CPU
MAX_PAIRS = 2**18  # of a block of several groups: memory that is taken from the system anew each time is slow


class GroupBlock(NamedTuple):
    """Groups that are stacked.

    Attributes:
        groups: (G,) int64 ids of the groups.
        rows: (G, n) int64 rows of each; a group of fewer than n rows repeats its first.
        filled: (G, n) bool, False where a row repeats; None where none does.
    """

    groups: Tensor
    rows: Tensor
    filled: Tensor | None


class GroupBlocks:
    """All groups of some rows, in dense blocks.

    Attributes:
        parts: the blocks.
        count: number of groups, the empty ones included.
    """

    def __init__(self, ids: Tensor, count: int, bands: Sequence[Tensor] | None = None) -> None:
        """Stacks groups.

        Args:
            ids: (rows,) int64 group of each row, from 0 to `count` - 1.
            count: number of groups.
            bands: for each block the (G,) ids of its groups, each group in one; by default groups of equal size.
        """
        self.count = count
        lengths = torch.bincount(ids, minlength=count)
        starts = lengths.cumsum(0) - lengths
        order = ids.argsort(stable=True)
        bands = split_by(lengths) if bands is None else bands
        self.parts = [_stack(groups, lengths[groups], starts[groups], order) for groups in bands]
        self._rows = torch.cat([part.rows.flatten() for part in self.parts])
        self._in_order = torch.equal(self._rows, torch.arange(len(ids), device=ids.device))
        self._places = None if self._in_order else _invert(self._rows, self.parts)

    def gather(self, values: Tensor, *, blank: bool = False) -> list[Tensor]:
        """(rows, ...) to a (G, n, ...) for each block; with `blank` zeros stand where a group's row would repeat."""
        if not self._in_order:
            if len(values) and not values[0].is_contiguous():  # torch selects such rows value by value
                values = values.contiguous()
            values = values.index_select(0, self._rows)  # of all blocks at once, as their gradients are then
        split = values.split([part.rows.numel() for part in self.parts])
        blocks = [block.unflatten(0, part.rows.shape) for block, part in zip(split, self.parts, strict=True)]
        return [fill(block, part.filled, 0, 1) for block, part in zip(blocks, self.parts, strict=True)] if blank else blocks

    def scatter(self, blocks: Sequence[Tensor]) -> Tensor:
        """Undoes `gather`."""
        flat = torch.cat([block.flatten(0, 1) for block in blocks]) if len(blocks) > 1 else blocks[0].flatten(0, 1)
        return flat if self._places is None else flat.index_select(0, self._places)

    def scatter_groups(self, blocks: Sequence[Tensor]) -> Tensor:
        """(G, ...) for each block to (count, ...), one row a group."""
        order = torch.cat([part.groups for part in self.parts])
        return torch.cat(list(blocks)).index_select(0, order.argsort())


def split_by(labels: Tensor) -> list[Tensor]:
    """Splits 0, 1, ... by the label (count,) of each; labels ascend."""
    counts = labels.unique(return_counts=True)[1].tolist()
    return list(labels.argsort(stable=True).split(counts))


def split_by_size(queries: Tensor, keys: Tensor) -> list[Tensor]:
    """Splits groups so that few blocks do, in which few pairs of a query and a key are of rows that repeat.

    Args:
        queries, keys: (count,) int64 sizes of the groups.

    Returns:
        For each block the (G,) ids of its groups. Those with no query or no key are among their equals.
    """
    labels, label, counts = (queries * 2**31 + keys).unique(return_inverse=True, return_counts=True)
    bands = _merge([(each // 2**31, each % 2**31) for each in labels.tolist()], counts.tolist())
    out = []
    for groups in split_by(torch.tensor(bands, device=labels.device)[label]):
        pairs = int(queries[groups].max() * keys[groups].max())
        out += groups.split(max(MAX_PAIRS // max(pairs, 1), 1))
    return out


def _merge(sizes: list[tuple[int, int]], counts: list[int]) -> list[int]:
    """Numbers the bands of sizes (queries, keys), which ascend, each of so many groups."""
    numbers = [0] * len(sizes)
    band, height, width, groups, pairs = 0, 0, 0, 0, 0
    for i in reversed(range(len(sizes))):
        size, count = sizes[i], counts[i]
        more = size[0] * size[1] * count
        tall, wide = max(height, size[0]), max(width, size[1])
        repeated = tall * wide * (groups + count) - pairs - more
        alone = height * width * groups - pairs
        if not groups or not more or not pairs or repeated - alone > MAX_REPEATED_PAIRS:
            band, height, width, groups, pairs = band + 1, *size, count, more
        else:
            height, width, groups, pairs = tall, wide, groups + count, pairs + more
        numbers[i] = band
    return numbers


def _stack(groups: Tensor, lengths: Tensor, starts: Tensor, order: Tensor) -> GroupBlock:
    """Stacks groups, of which `order` holds the rows from `starts` on."""
    low, high = int(lengths.min()), int(lengths.max())
    place = torch.arange(high, device=order.device)
    if low == high:
        return GroupBlock(groups, order[starts[:, None] + place], None)
    filled = place < lengths[:, None]
    return GroupBlock(groups, order[starts[:, None] + place * filled], filled)


def _invert(flat: Tensor, parts: Sequence[GroupBlock]) -> Tensor:
    """(rows,) int64: where each row stands in the blocks one behind the other."""
    filled = [torch.ones_like(rows, dtype=torch.bool) if mask is None else mask for _, rows, mask in parts]
    places = torch.cat([mask.flatten() for mask in filled]).nonzero().squeeze(1)
    return torch.empty_like(places).index_put_((flat[places],), places)


def fill(block: Tensor, filled: Tensor | None, value: float, axis: int) -> Tensor:
    """Writes a value over the rows that repeat, of a block (G, ...) whose `axis` is the rows of a group."""
    if filled is None:
        return block
    shape = [1] * block.ndim
    shape[0], shape[axis] = filled.shape
    return block.masked_fill(~filled.view(shape), value)


def segment(values: Tensor, index: Tensor, count: int, reduction: str) -> Tensor:
    """Reduces (rows, ...) to (count, ...) by row index; nothing gives 0.

    Args:
        values: of any floating dtype; half precision is added up in float32 and rounded once.
        index: (rows,) int64 from 0 to `count` - 1.
        count: number of results.
        reduction: "sum", "mean" or "amax".
    """
    shape = (count, *values.shape[1:])
    if reduction == "amax":
        wide = index.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        out = values.new_full(shape, -torch.inf).scatter_reduce(0, wide, values, "amax")
        return out.masked_fill(out == -torch.inf, 0)
    exact = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    out = exact.new_zeros(shape).index_add(0, index, exact)
    if reduction == "mean":
        number = torch.bincount(index, minlength=count).clamp(min=1)
        out = out / number.view(-1, *[1] * (values.ndim - 1)).to(out.dtype)
    return out.to(values.dtype)
