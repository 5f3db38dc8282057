"""Global context attention: a gate from the sum of a sample's voxels, weighted by a softmax over them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.global_context import GlobalContext
from torch import nn

from i2p_zoo.layers.registry import replaces
from i2p_zoo.sparse.tensor import SparseTensor


class SparseGlobalContext(nn.Module):
    """timm's GlobalContext (Cao et al. 2019) on sparse voxels.

    Args:
        leaf: the 2D layer, whose parts this one takes over.
    """

    def __init__(self, leaf: GlobalContext) -> None:
        super().__init__()
        self.__dict__.update(leaf.__dict__)

    def forward(self, x: SparseTensor) -> Any:
        """Gates (N, C) features."""
        parts: Any = self
        if parts.conv_attn is not None:
            score = parts.conv_attn(x)
            weights = (score - score.amax(dim=(2, 3), keepdim=True).detach()).exp()
            total = weights.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            context = (x * weights).sum(dim=(2, 3), keepdim=True) / total
        else:
            context = x.mean(dim=(2, 3), keepdim=True)
        if parts.mlp_scale is not None:
            x = x * parts.gate(parts.mlp_scale(context))
        return x if parts.mlp_add is None else x + parts.mlp_add(context)


@replaces(GlobalContext)
def build_global_context(leaf: GlobalContext, axis: str, depth: int | None, inflation: str) -> SparseGlobalContext:
    """Builds the sparse layer of timm's GlobalContext."""
    return SparseGlobalContext(leaf)
