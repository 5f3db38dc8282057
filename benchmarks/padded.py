"""The peer of attention over ragged clouds: timm's own blocks on padded tensors with a mask, through torch's attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Padding:
    """Rows of groups in a padded batch.

    Attributes:
        rows: (G, m) int64 row at each place; 0 where there is none.
        mask: (G, m) bool, whether there is one.
        places: (rows,) int64 place of each row, counted through the batch.
    """

    def __init__(self, groups: Tensor) -> None:
        lengths = torch.bincount(groups)
        order = groups.argsort(stable=True)
        groups = groups[order]
        number = torch.arange(len(groups)) - (lengths.cumsum(0) - lengths)[groups]
        self.rows = order.new_zeros((len(lengths), int(lengths.max())))
        self.mask = torch.zeros(self.rows.shape, dtype=torch.bool)
        self.rows[groups, number] = order
        self.mask[groups, number] = True
        self.places = torch.empty_like(order)
        self.places[order] = groups * self.rows.shape[1] + number

    def pad(self, values: Tensor) -> Tensor:
        """(rows, ...) to (G, m, ...)."""
        return values[self.rows]

    def unpad(self, padded: Tensor) -> Tensor:
        """Undoes `pad`."""
        return padded.flatten(0, 1)[self.places]


def run_blocks(blocks: Sequence[nn.Module], x: Tensor, padding: Padding, rope: Tensor | None) -> Tensor:
    """Runs blocks of a ViT or an EVA, as they are, on (B, m, channels)."""
    options: dict[str, Any] = {"attn_mask": padding.mask[:, None, None]} | ({} if rope is None else {"rope": rope})
    for block in blocks:
        x = block(x, **options)
    return x


class PaddedWindows:
    """Windows of 3D sites in the padded batch of the samples.

    Attributes:
        padding: the rows of each window.
        rows: (W, m) int64 places in the batch.
        back: (B * n,) int64 place of each of the batch's rows among the windows'.
        relative: (W, m, m) int64 row of the table for each pair.
    """

    def __init__(self, coords: Tensor, batch: Padding, size: int, period: int | None = None, shift: int = 0) -> None:
        """Partitions sites.

        Args:
            coords: (N, 4) int32 batch, z, y, x.
            batch: the samples' padding.
            size: places along each side of a window.
            period: of a grid, how far these are apart; by default windows of neighbours.
            shift: how far windows are moved.
        """
        moved = coords.long() - torch.tensor((0, shift, shift, shift))
        place = moved[:, 1:]
        window, place = (place // size, place % size) if period is None else (place % period, place // period)
        _, groups = torch.cat([moved[:, :1], window], 1).unique(dim=0, return_inverse=True)
        self.padding = Padding(groups)
        self.rows = batch.places[self.padding.rows]
        self.back = torch.zeros(batch.rows.numel(), dtype=torch.int64)
        self.back[batch.places] = self.padding.places
        place = self.padding.pad(place.clamp(0, size - 1))
        difference = place[:, :, None] - place[:, None] + size - 1
        self.relative = difference[..., 1] * (2 * size - 1) + difference[..., 2]

    def attend(self, attention: nn.Module, table: Tensor, x: Tensor, *, by_head: bool) -> Tensor:
        """Attention of (B, n, channels) within windows by a module's own layers; `by_head` orders channels head, q k v."""
        heads, windows = table.shape[1], x.flatten(0, 1)[self.rows]
        qkv: Tensor = attention.qkv(windows)  # type: ignore[operator]
        if by_head:
            parts = qkv.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            parts = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        bias = table[self.relative].permute(0, 3, 1, 2).masked_fill(~self.padding.mask[:, None, None], -torch.inf)
        out = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias).transpose(1, 2).flatten(2)
        result: Tensor = attention.proj(out).flatten(0, 1)[self.back].unflatten(0, x.shape[:2])  # type: ignore[operator]
        return result


def run_swin_blocks(blocks: Sequence[Any], x: Tensor, windows: dict[int, PaddedWindows]) -> Tensor:
    """Runs Swin blocks on (B, m, channels), given the windows for each shift."""
    for block in blocks:
        at, attention = windows[max(block.shift_size)], block.attn
        x = x + at.attend(attention, attention.relative_position_bias_table, block.norm1(x), by_head=False)
        x = x + block.mlp(block.norm2(x))
    return x


def run_partition_blocks(blocks: Sequence[Any], x: Tensor, windows: dict[bool, PaddedWindows]) -> Tensor:
    """Runs MaxViT's blocks of windows (True) and grids (False) on (B, m, channels)."""
    for block in blocks:
        at, attention = windows[block.partition_block], block.attn
        table = attention.rel_pos.relative_position_bias_table
        x = x + block.ls1(at.attend(attention, table, block.norm1(x), by_head=attention.head_first))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return x
