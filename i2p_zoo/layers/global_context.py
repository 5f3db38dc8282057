"""Global context attention: a gate from the sum of a sample's voxels, weighted by a softmax over them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.global_context import GlobalContext
from torch import nn

from i2p_zoo.layers.registry import replaces, take_over
from i2p_zoo.sparse.pooling import in_single
from i2p_zoo.sparse.tensor import SparseTensor


@replaces(GlobalContext)
class SparseGlobalContext(nn.Module):
    """timm's GlobalContext (Cao et al. 2019) on sparse voxels.

    Args:
        leaf: the 2D layer, whose parts this one takes over.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: GlobalContext, **_: Any) -> None:
        super().__init__()
        take_over(self, leaf)

    def forward(self, x: SparseTensor) -> Any:
        """Gates (N, C) features."""
        parts: Any = self
        if parts.conv_attn is not None:
            score = in_single(parts.conv_attn(x))  # more voxels than float16 can count
            weights = (score - score.amax(dim=(2, 3), keepdim=True).detach()).exp()
            total = weights.sum(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
            context = ((in_single(x) * weights).sum(dim=(2, 3), keepdim=True) / total).to(x.dtype)
        else:
            context = x.mean(dim=(2, 3), keepdim=True)
        if parts.mlp_scale is not None:
            x = x * parts.gate(parts.mlp_scale(context))
        return x if parts.mlp_add is None else x + parts.mlp_add(context)
