"""A transposed convolution onto the finer sites that a tensor was strided from."""

from __future__ import annotations

from typing import Any

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
from i2p_zoo.sparse.tokens.site_tokens import require_sites


class SparseConvTranspose3d(nn.Module):
    """A transposed convolution onto the finer sites that a tensor was strided from.

    Args:
        leaf: its 2D source.
        axis: "z", "y" or "x", the axis that the 2D layer did not have.
        depth: the longest kernel along it, or None.

    Raises:
        UnsupportedError: groups of several channels, dilation, or padding of the output.
    """

    def __init__(self, leaf: nn.ConvTranspose2d, axis: str, depth: int | None = None) -> None:
        super().__init__()
        is_grouped = leaf.groups not in (1, leaf.in_channels)
        if is_grouped or as_pair(leaf.output_padding) != (0, 0) or as_pair(leaf.dilation) != (1, 1):
            raise UnsupportedError(
                f"groups={leaf.groups}, output_padding={leaf.output_padding}, dilation={leaf.dilation}; only one group or "
                "one a channel, no padding of the output, and dilation 1"
            )
        self.in_channels, self.out_channels, self.groups = leaf.in_channels, leaf.out_channels, leaf.groups
        self.kernel_size, self.stride, self.axis = as_pair(leaf.kernel_size), as_pair(leaf.stride), axis
        self.padding = (int(leaf.padding[0]), int(leaf.padding[1]))
        if self.stride[0] != self.stride[1]:
            raise UnsupportedError(f"stride={leaf.stride}; only the same along height and width")
        self.depth = max(self.kernel_size) if depth is None else min(depth, max(self.kernel_size))
        shape = (leaf.out_channels, *insert_axis(self.kernel_size, self.depth, AXES[axis]), leaf.in_channels // leaf.groups)
        empty: dict[str, Any] = {"device": "meta", "dtype": leaf.weight.dtype}
        self.weight = nn.Parameter(torch.empty(shape, **empty))
        self.bias = None if leaf.bias is None else nn.Parameter(torch.empty(leaf.out_channels, **empty))

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """Returns the (out, kz, ky, kx, in / groups) tensor of a (in, out / groups, ky, kx) one, or None where it is copied."""
        if name != "weight":
            return None
        kernel = source.transpose(0, 1) if self.groups == 1 else source.reshape(-1, 1, *source.shape[2:])
        return inflate_weight(kernel, inflation, self.axis, self.depth)

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`; None where the tensor is no inflation, or not an untouched one."""
        flat = deflate_weight(inflated, inflation, self.axis) if name == "weight" else None
        if flat is None:
            return None
        return flat.transpose(0, 1) if self.groups == 1 else flat.reshape(self.in_channels, -1, *flat.shape[2:])

    def forward(self, x: Any) -> SparseTensor:
        """Reads, for each finer site, the coarse ones whose window it lies in.

        Args:
            x: (N, in_channels) features on sites that a layer of the same stride made.

        Raises:
            UnsupportedError: no such layer lies behind, tokens that are no image, or another output extent than it had.
        """
        x = require_sites(x, "conv_transpose2d")
        axis = AXES[self.axis]
        fine = finer_sites(x, self.stride[0]) if self.stride != (1, 1) else x
        self._check_extent(x, fine)
        before = insert_axis(self.padding, (self.depth - 1) // 2, axis)
        kernel = insert_axis(self.kernel_size, self.depth, axis)
        window = Window(kernel=kernel, stride=(self.stride[0],) * 3, before=before, after=before, new_axis=axis)
        kmap = kernel_map(x.cache, fine.coords, x.coords, window).inverse
        features = convolve(x.features, self.weight, kmap, self.groups)
        return fine.derive(features if self.bias is None else features + self.bias)

    def _check_extent(self, x: SparseTensor, fine: SparseTensor) -> None:
        if not x.has_extent:
            return
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.padding, strict=True)
        size = tuple((extent - 1) * stride - 2 * padding + kernel for extent, kernel, stride, padding in sides)
        if size != fine.shape[-2:]:
            raise UnsupportedError(
                f"A transposed convolution of {x!r} to {size} (height, width): the layer that made its sites had "
                f"{fine.shape[-2:]}."
            )

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        kernel = "x".join(str(size) for size in self.weight.shape[1:4])
        return f"{self.in_channels}, {self.out_channels}, kernel={kernel}, stride={self.stride}, padding={self.padding}"


@replaces(nn.ConvTranspose2d)
def build_transposed(leaf: nn.ConvTranspose2d, axis: str, depth: int | None, inflation: str) -> SparseConvTranspose3d:
    """Builds the counterpart of a transposed convolution."""
    return SparseConvTranspose3d(leaf, axis, depth)


keep(SparseConvTranspose3d)
