"""DropBlock on voxels: whole neighbourhoods are dropped in training, each voxel as often as the rate says."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.drop import DropBlock2d
from torch import nn
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.registry import replaces
from i2p_zoo.sparse.tensor import SparseTensor


@replaces(DropBlock2d)
class SparseDropBlock(nn.Module):
    """timm's DropBlock2d (Ghiasi et al. 2018) on cubes of voxels.

    A cube around a voxel is dropped with the probability rate / (voxels in that cube), so that on average the cubes that hold a
    voxel are `drop_prob`, on a surface as in a volume; on a whole image that is the paper's.

    Args:
        leaf: timm's layer.
        **_: a builder's other arguments.

    Raises:
        UnsupportedError: the layer adds noise, has a mask a channel, or blocks of an even size.
    """

    def __init__(self, leaf: DropBlock2d, **_: Any) -> None:
        super().__init__()
        if leaf.with_noise or not getattr(leaf, "couple_channels", True) or leaf.block_size % 2 == 0:
            raise UnsupportedError("noise, a mask for each channel, or blocks of an even size")
        self.drop_prob, self.gamma_scale, self.block_size = leaf.drop_prob, leaf.gamma_scale, leaf.block_size
        self.scale_by_keep = leaf.scale_by_keep

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Drops blocks of (N, C) features, in training."""
        if not self.training or not self.drop_prob:
            return x
        size, pad = self.block_size, self.block_size // 2
        with torch.no_grad():
            ones: Any = x.derive(x.features.new_ones(len(x.features), 1))
            count: Any = F.avg_pool2d(ones, size, 1, pad, divisor_override=1)
            seeds: Any = x.derive(torch.bernoulli((self.gamma_scale * self.drop_prob / count.features).clamp(max=1)))
            dropped: Any = F.max_pool2d(seeds, size, 1, pad)
            keep = 1 - dropped.features
            if self.scale_by_keep:
                keep = keep * (len(keep) / keep.float().sum().add(1e-7)).to(keep.dtype)
        return x.derive(x.features * keep)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"
