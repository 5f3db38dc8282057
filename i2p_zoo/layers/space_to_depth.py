"""timm's space-to-depth stem: the pixels of a block become channels of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.layers.space_to_depth import SpaceToDepth
from torch import nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.registry import replaces
from i2p_zoo.sparse.geometry import AXES, insert_axis
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.pooling import in_single
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.sparse_convolution import with_window
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.windows import plan_window


@replaces(SpaceToDepth)
class SparseSpaceToDepth(nn.Module):
    """Gives each block of voxels the channels of its columns, (row, column, channel) with the channel fastest.

    The voxels of a column along the new axis, which a 2D network has one of, are averaged; a column without any is 0.

    Args:
        leaf: the 2D layer.
        axis: the axis, "z", "y" or "x", that the 2D network did not have.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: SpaceToDepth, axis: str, **_: Any) -> None:
        super().__init__()
        self.block_size, self.axis = leaf.bs, axis

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Rearranges (N, C) features to (M, block_size ** 2 * C) on the strided sites."""
        size, axis = self.block_size, AXES[self.axis]
        x = x.apply_padding()
        if x.spatial_shape is not None and any(x.spatial_shape[a] % size for a in x.plan.plane):
            raise InvalidInputError(f"The extent {x.spatial_shape} (z, y, x) must be divisible by blocks of {size}.")
        window, level = plan_window(x, (size, size), (size, size), ((0, 0), (0, 0)), axis=axis)
        before = list(window.before)
        before[axis] = 0  # blocks do not overlap along the new axis either
        window = replace(window, before=(before[0], before[1], before[2]))
        coords, shape, kmap = window_sites(x.cache, x.coords, x.spatial_shape, window)
        plane = torch.arange(size**2).view(insert_axis((size, size), 1, axis))
        columns = plane.expand(size, size, size).flatten().tolist()  # of each tap
        targets, sources = [], []
        for tap, inputs, outputs in kmap.pairs:
            everything = torch.arange(kmap.num_outputs, device=x.device)
            targets.append((everything if outputs is None else outputs) * size**2 + columns[tap])
            sources.append(everything if inputs is None else inputs)
        target, source = torch.cat(targets), torch.cat(sources)
        single = in_single(x).features
        index = RowIndex(target, len(coords) * size**2)
        total = index.sum(single.index_select(0, source))  # each voxel is in one block
        features = (total / index.counts.clamp(min=1)[:, None].to(total.dtype)).to(x.dtype).view(len(coords), -1)
        return with_window(x, features, coords, shape, window, level)
