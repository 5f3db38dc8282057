"""A transposed convolution onto the finer sites that a tensor was strided from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.kernel_inflation import deflate_weight, inflate_weight
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.geometry import AXES, Window, as_pair, insert_axis
from i2p_zoo.sparse.kernel_maps import kernel_map
from i2p_zoo.sparse.sparse_convolution import convolve
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_levels import finer_sites


class SparseConvTranspose3d(nn.Module):
    """A transposed convolution onto the finer sites that a tensor was strided from."""

    def __init__(self, leaf: nn.ConvTranspose2d, axis: str) -> None:
        super().__init__()
        if (
            leaf.groups not in (1, leaf.in_channels)
            or leaf.output_padding not in (0, (0, 0))
            or as_pair(leaf.dilation) != (1, 1)
        ):
            raise UnsupportedError(f"groups={leaf.groups}, output_padding={leaf.output_padding}, dilation={leaf.dilation}")
        self.in_channels, self.out_channels, self.groups = leaf.in_channels, leaf.out_channels, leaf.groups
        self.kernel_size, self.stride = as_pair(leaf.kernel_size), as_pair(leaf.stride)
        self.padding, self.axis = as_pair(leaf.padding), axis
        shape = (
            leaf.out_channels,
            *insert_axis(self.kernel_size, max(self.kernel_size), AXES[axis]),
            leaf.in_channels // leaf.groups,
        )
        self.weight = nn.Parameter(torch.empty(shape, device="meta", dtype=leaf.weight.dtype))
        self.bias = (
            None if leaf.bias is None else nn.Parameter(torch.empty(leaf.out_channels, device="meta", dtype=leaf.weight.dtype))
        )

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """(in, out / groups, ky, kx) to (out, kz, ky, kx, in / groups)."""
        if name != "weight":
            return None
        return inflate_weight(
            source if self.groups > 1 else source.transpose(0, 1), inflation, self.axis, max(self.kernel_size)
        )

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`."""
        flat = deflate_weight(inflated, inflation, self.axis) if name == "weight" else None
        return flat if flat is None or self.groups > 1 else flat.transpose(0, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Reads, for each finer site, the coarse ones whose window it lies in."""
        axis = AXES[self.axis]
        fine = finer_sites(x, self.stride[0]) if self.stride != (1, 1) else x
        middle = (max(self.kernel_size) - 1) // 2
        before = insert_axis(self.padding, middle, axis)
        kernel = insert_axis(self.kernel_size, max(self.kernel_size), axis)
        stride = insert_axis(self.stride, max(self.stride), axis)
        window = Window(kernel=kernel, stride=stride, before=before, after=before, new_axis=axis)
        kmap = kernel_map(x.cache, fine.coords, x.coords, window).inverse
        features = convolve(x.features, self.weight, kmap, self.groups)
        return fine.derive(features if self.bias is None else features + self.bias)


@replaces(nn.ConvTranspose2d)
def build_transposed(leaf: nn.ConvTranspose2d, axis: str, depth: int | None, inflation: str) -> nn.Module:
    """Builds the counterpart of a transposed convolution."""
    return SparseConvTranspose3d(leaf, axis)


keep(SparseConvTranspose3d)
