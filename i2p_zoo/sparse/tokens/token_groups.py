"""Groups of rows: which belong together, stacked into dense blocks of one size or nearly one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.row_index import RowIndex

Sizes = NDArray[np.int64]


class Limits(NamedTuple):
    """How far groups of unlike size share a block.

    Attributes:
        repeated_pairs: what one more block costs, in pairs of rows that repeat.
        pairs: of a block of several groups.
    """

    repeated_pairs: int
    pairs: int


CPU_LIMITS = Limits(8192, 2**18)  # a block costs 0.1 ms; memory that is taken from the system anew each time is slow
DEVICE_LIMITS = Limits(2**18, 2**22)  # a block is some ten launches each way, a pair some ten reads of its scores


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


class GroupSizes(NamedTuple):
    """What the host knows of groups.

    Attributes:
        lengths: (count,) int64, the rows of each.
        in_order: whether rows stand group after group.
    """

    lengths: Sizes
    in_order: bool


class Bands(NamedTuple):
    """Which groups share a block.

    Attributes:
        parts: for each block the (G,) ids of its groups, each group in one.
        groups: these ids, block after block, where the rows are.
    """

    parts: list[Sizes]
    groups: Tensor

    @classmethod
    def of(cls, parts: list[Sizes], device: Any) -> Bands:
        """Sends the ids of groups to a device."""
        return cls(parts, torch.from_numpy(np.concatenate(parts)).to(device))


def read_sizes(groups: Sequence[RowIndex]) -> list[GroupSizes]:
    """Reads the sizes of several groupings of rows, for one wait."""
    parts = []
    for group in groups:
        in_order = (group.rows[1:] >= group.rows[:-1]).all()
        parts += [group.counts, in_order[None].long()]
    values = torch.cat(parts).numpy(force=True)
    ends = np.cumsum([group.count + 1 for group in groups])
    return [GroupSizes(part[:-1], bool(part[-1])) for part in np.split(values, ends[:-1])]


class GroupBlocks:
    """All groups of some rows, in dense blocks.

    Args:
        index: the group of each row.
        sizes: of the groups, where they were read already.
        bands: which groups share a block; by default those of equal size.

    Attributes:
        parts: the blocks.
        count: number of groups, the empty ones included.
    """

    def __init__(self, index: RowIndex, sizes: GroupSizes | None = None, bands: Bands | None = None) -> None:
        self.count = index.count
        lengths, in_order = read_sizes([index])[0] if sizes is None else sizes
        bands = Bands.of(split_by(lengths), index.rows.device) if bands is None else bands
        order, starts = index.segments
        self.parts = []
        for host, groups in zip(bands.parts, bands.groups.split([len(part) for part in bands.parts]), strict=True):
            bounds = (int(lengths[host].min()), int(lengths[host].max()))
            self.parts.append(_stack(groups, bounds, index.counts[groups], starts[groups], order))
        rows = torch.cat([part.rows.flatten() for part in self.parts])
        repeats = any(part.filled is not None for part in self.parts)
        walked = np.concatenate(bands.parts)
        walked = walked[lengths[walked] > 0]
        self._in_order = in_order and not repeats and bool((walked[1:] > walked[:-1]).all())
        self._places = None if self._in_order else _invert(rows, self.parts, len(index.rows))
        self._rows, self._repeats = RowIndex(rows, len(index.rows)), repeats

    def gather(self, values: Tensor, *, blank: bool = False) -> list[Tensor]:
        """(rows, ...) to a (G, n, ...) for each block; with `blank` zeros stand where a group's row would repeat."""
        if not self._in_order:
            if len(values) and not values[0].is_contiguous():  # torch selects such rows value by value
                values = values.contiguous()
            # of all blocks at once, as their gradients are then
            values = self._rows.take(values) if self._repeats else values.index_select(0, self._rows.rows)
        split = values.split([part.rows.numel() for part in self.parts])
        blocks = [block.unflatten(0, part.rows.shape) for block, part in zip(split, self.parts, strict=True)]
        return [fill(block, part.filled, 0, 1) for block, part in zip(blocks, self.parts, strict=True)] if blank else blocks

    def scatter(self, blocks: Sequence[Tensor]) -> Tensor:
        """Undoes `gather`."""
        flat = torch.cat([block.flatten(0, 1) for block in blocks]) if len(blocks) > 1 else blocks[0].flatten(0, 1)
        return flat if self._places is None else flat.index_select(0, self._places)

    @cached_property
    def _group_places(self) -> Tensor:
        return torch.cat([part.groups for part in self.parts]).argsort()

    def scatter_groups(self, blocks: Sequence[Tensor]) -> Tensor:
        """(G, ...) for each block to (count, ...), one row a group."""
        return torch.cat(list(blocks)).index_select(0, self._group_places)


def split_by(labels: Sizes) -> list[Sizes]:
    """Splits 0, 1, ... by the label (count,) of each; labels ascend."""
    counts = np.unique(labels, return_counts=True)[1]
    return np.split(labels.argsort(kind="stable"), counts.cumsum()[:-1])


def split_by_size(queries: Sizes, keys: Sizes, limits: Limits = CPU_LIMITS) -> list[Sizes]:
    """Splits groups so that few blocks do, in which few pairs of a query and a key are of rows that repeat.

    Args:
        queries, keys: (count,) int64 sizes of the groups.
        limits: of a block.

    Returns:
        For each block the (G,) ids of its groups. Those with no query or no key are among their equals.
    """
    labels, label, counts = np.unique(queries * 2**31 + keys, return_inverse=True, return_counts=True)
    bands = _merge([(each // 2**31, each % 2**31) for each in labels.tolist()], counts.tolist(), limits.repeated_pairs)
    out = []
    for groups in split_by(np.array(bands)[label.reshape(-1)]):
        pairs = int(queries[groups].max() * keys[groups].max())
        step = max(limits.pairs // max(pairs, 1), 1)
        out += [groups[start : start + step] for start in range(0, len(groups), step)]
    return out


def limits_for(rows: Tensor) -> Limits:
    """Returns the limits where some rows are."""
    return DEVICE_LIMITS if takes_device_path(rows) else CPU_LIMITS


def _merge(sizes: list[tuple[int, int]], counts: list[int], most: int) -> list[int]:
    """Numbers the bands of sizes (queries, keys), which ascend, each of so many groups; at most so many pairs repeat."""
    numbers = [0] * len(sizes)
    band, height, width, groups, pairs = 0, 0, 0, 0, 0
    for i in reversed(range(len(sizes))):
        size, count = sizes[i], counts[i]
        more = size[0] * size[1] * count
        tall, wide = max(height, size[0]), max(width, size[1])
        repeated = tall * wide * (groups + count) - pairs - more
        alone = height * width * groups - pairs
        if not groups or not more or not pairs or repeated - alone > most:
            band, height, width, groups, pairs = band + 1, *size, count, more
        else:
            height, width, groups, pairs = tall, wide, groups + count, pairs + more
        numbers[i] = band
    return numbers


def _stack(groups: Tensor, bounds: tuple[int, int], lengths: Tensor, starts: Tensor, order: Tensor | None) -> GroupBlock:
    """Stacks groups of `bounds` rows each, which `order` holds from `starts` on."""
    place = torch.arange(bounds[1], device=groups.device)
    filled = None
    if bounds[0] < bounds[1]:
        filled = place < lengths[:, None]
        place = place * filled
    rows = starts[:, None] + place
    return GroupBlock(groups, rows if order is None else order[rows], filled)


def _invert(flat: Tensor, parts: Sequence[GroupBlock], count: int) -> Tensor:
    """(count,) int64: where each row stands in the blocks one behind the other."""
    if any(part.filled is not None for part in parts):
        filled = [torch.ones_like(rows, dtype=torch.bool) if mask is None else mask for _, rows, mask in parts]
        flat = torch.where(torch.cat([mask.flatten() for mask in filled]), flat, count)
    places = flat.new_empty(count + 1)  # the last is of rows that repeat
    return places.scatter_(0, flat, torch.arange(len(flat), device=flat.device))[:count]


def fill(block: Tensor, filled: Tensor | None, value: float, axis: int) -> Tensor:
    """Writes a value over the rows that repeat, of a block (G, ...) whose `axis` is the rows of a group."""
    if filled is None:
        return block
    shape = [1] * block.ndim
    shape[0], shape[axis] = filled.shape
    return block.masked_fill(~filled.view(shape), value)


def segment(values: Tensor, index: RowIndex, reduction: str) -> Tensor:
    """Reduces (rows, ...) to (count, ...) by row index; nothing gives 0.

    Args:
        values: of any floating dtype; half precision is added up in float32 and rounded once.
        index: which result each row is part of.
        reduction: "sum", "mean" or "amax".
    """
    if reduction == "amax":
        out = index.largest(values)
        return out.masked_fill(out == -torch.inf, 0)
    is_half = values.dtype in (torch.float16, torch.bfloat16)
    out = index.sum(values.float() if is_half else values)
    if reduction == "mean":
        out = out / index.counts.clamp(min=1).view(-1, *[1] * (values.ndim - 1)).to(out.dtype)
    return out.to(values.dtype)
