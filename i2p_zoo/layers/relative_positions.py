"""Relative positions whose own forward skews a matrix (BoTNet, HaloNet)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import bottleneck_attn, halo_attn
from torch import Tensor, nn

from i2p_zoo.layers.registry import keep, replaces, take_over


class PosEmbedRelOnCanvas(nn.Module):
    """timm's PosEmbedRel, of the bottleneck's attention: the query's bias by height and width, as tables over the canvas."""

    height: int
    width: int
    height_rel: nn.Parameter
    width_rel: nn.Parameter

    def __init__(self, leaf: bottleneck_attn.PosEmbedRel) -> None:
        super().__init__()
        take_over(self, leaf)

    def forward(self, q: Any) -> Any:
        """Returns (batch * heads, places, channels of places) biases of (batch * heads, places, channels) queries."""
        rows, count, _ = q.shape
        q = q.reshape(rows, self.height, self.width, -1)
        height = torch.einsum("bhwc,hkc->bhwk", q, _table(self.height_rel, self.height, self.height))
        width = torch.einsum("bhwc,wkc->bhwk", q, _table(self.width_rel, self.width, self.width))
        return (height.unsqueeze(-1) + width.unsqueeze(-2)).reshape(rows, count, count)


class PosEmbedRelOfHalo(nn.Module):
    """timm's PosEmbedRel, of the halo attention: the same within blocks and their wider windows."""

    block_size: int
    height_rel: nn.Parameter
    width_rel: nn.Parameter

    def __init__(self, leaf: halo_attn.PosEmbedRel) -> None:
        super().__init__()
        take_over(self, leaf)

    def forward(self, q: Any) -> Any:
        """Returns (batch * heads, blocks, places, channels of window places) biases of (batch * heads, blocks, places, C)."""
        rows, blocks, _, _ = q.shape
        window = (self.height_rel.shape[0] + 1) // 2
        q = q.reshape(rows, blocks, self.block_size, self.block_size, -1)
        height = torch.einsum("bnhwc,hkc->bnhwk", q, _table(self.height_rel, self.block_size, window))
        width = torch.einsum("bnhwc,wkc->bnhwk", q, _table(self.width_rel, self.block_size, window))
        return (height.unsqueeze(-1) + width.unsqueeze(-2)).reshape(rows, blocks, self.block_size**2, window**2)


def _table(relative: Tensor, queries: int, keys: int) -> Tensor:
    """(queries, keys, channels): the row of each difference, as timm's skewing finds it."""
    key, query = torch.arange(keys, device=relative.device), torch.arange(queries, device=relative.device)
    return relative[key[None, :] - query[:, None] + keys - 1]


@replaces(bottleneck_attn.PosEmbedRel)
def build_bottleneck_positions(
    leaf: bottleneck_attn.PosEmbedRel, axis: str, depth: int | None, inflation: str
) -> PosEmbedRelOnCanvas:
    """Builds the counterpart of BoTNet's relative positions."""
    return PosEmbedRelOnCanvas(leaf)


@replaces(halo_attn.PosEmbedRel)
def build_halo_positions(leaf: halo_attn.PosEmbedRel, axis: str, depth: int | None, inflation: str) -> PosEmbedRelOfHalo:
    """Builds the counterpart of HaloNet's relative positions."""
    return PosEmbedRelOfHalo(leaf)


keep(PosEmbedRelOnCanvas, PosEmbedRelOfHalo)
