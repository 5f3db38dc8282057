"""Bilinear attention (BAT): every row block and every column block of an image is mixed with the others."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.non_local_attn import BilinearAttnTransform
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.registry import replaces, take_over
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.geometry import AXES
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tensor import SparseTensor


@replaces(BilinearAttnTransform)
class SparseBilinearAttention(nn.Module):
    """timm's BilinearAttnTransform (Chi et al. 2020) on sparse voxels.

    The blocks divide the `spatial_shape`, or without one each sample's bounding box, along the image's height and width;
    voxels at the same place of their blocks, and at the same place along the new axis, are mixed.

    Args:
        leaf: the 2D layer, whose parts this one takes over.
        axis: the axis, "z", "y" or "x", that the 2D layer does not have.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: BilinearAttnTransform, axis: str, **_: Any) -> None:
        super().__init__()
        take_over(self, leaf)
        self.axis = axis

    def forward(self, x: SparseTensor) -> Any:
        """Mixes (N, C) features."""
        parts: Any = self
        size, groups, channels = parts.block_size, parts.groups, x.features.shape[1]
        blocks, places = _locate(x, size)
        scores = parts.conv1(x).features
        rows = self._mixing(parts.conv_p, scores, x.batch_rows * size + blocks[0], x.batch_size)
        columns = self._mixing(parts.conv_q, scores, x.batch_rows * size + blocks[1], x.batch_size)
        rows = (rows / rows.sum(3, keepdim=True)).repeat_interleave(channels // groups, 1)  # (B, C, size, size)
        columns = (columns / columns.sum(2, keepdim=True)).repeat_interleave(channels // groups, 1)
        cells, cell = unique_rows(places)
        grid = x.features.new_zeros((len(cells), size, size, channels)).index_put((cell, *blocks), x.features)
        batch = RowIndex(cells[:, 0].long(), x.batch_size, is_sorted=True)
        mixed = batch.take(rows) @ grid.permute(0, 3, 1, 2) @ batch.take(columns)
        return parts.conv2(x.derive(mixed.permute(0, 2, 3, 1)[cell, blocks[0], blocks[1]]))

    def _mixing(self, convolution: Any, scores: Tensor, block: Tensor, batch_size: int) -> Tensor:
        """(B, groups, size, size) weights from the largest score of each block; the kernel spans all blocks."""
        size: int = self.block_size  # type: ignore[assignment]
        largest = RowIndex(block, batch_size * size).largest(scores)
        largest = largest.masked_fill(largest == -torch.inf, 0).view(batch_size, size, -1)
        weight = convolution.weight.sum(1 + AXES[self.axis]).flatten(1, 2)  # (groups * size ** 2, size, groups)
        logits = torch.einsum("bsg,osg->bo", largest, weight) + convolution.bias
        mixing: Tensor = logits.view(batch_size, -1, size, size).sigmoid()
        return mixing


def _locate(x: SparseTensor, size: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Returns each voxel's block along height and along width, and its place in it, as rows (batch, z, y, x)."""
    places, blocks = x.coords.clone(), []
    for axis in x.plan.plane:
        at = x.coords[:, axis + 1].long()
        if x.spatial_shape is not None:
            low, extent = at.new_zeros(x.batch_size), at.new_full((x.batch_size,), x.spatial_shape[axis])
            if x.spatial_shape[axis] % size:
                raise InvalidInputError(f"The extent {x.spatial_shape} (z, y, x) must be divisible by the {size} blocks.")
        else:
            low = at.new_zeros(x.batch_size).scatter_reduce(0, x.batch_rows, at, "amin", include_self=False)
            high = at.new_zeros(x.batch_size).scatter_reduce(0, x.batch_rows, at, "amax", include_self=False)
            extent = high - low + 1
        length = torch.div(extent + size - 1, size, rounding_mode="floor")[x.batch_rows]
        offset = at - low[x.batch_rows]
        blocks.append(torch.div(offset, length, rounding_mode="floor"))
        places[:, axis + 1] = (offset % length).to(places.dtype)
    return (blocks[0], blocks[1]), places
