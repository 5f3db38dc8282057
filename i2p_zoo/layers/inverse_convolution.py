"""InverseConv3d: from a coarse level of a network back to the sites of a finer one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import CoordinateMismatchError, InvalidInputError
from i2p_zoo.sparse.geometry import Triple, Window, unfold_stride
from i2p_zoo.sparse.kernel_maps import kernel_map
from i2p_zoo.sparse.sparse_convolution import convolve
from i2p_zoo.sparse.tensor import SparseTensor


class InverseConv3d(nn.Module):
    """A transposed convolution onto the very sites that a strided one came from; kernel and stride are one.

    A fine site f reads the coarse site floor(f / ratio) by tap f mod ratio. One whose coarse site does not exist, which a
    network that crops leaves, gets zeros.

    Args:
        in_channels, out_channels: of the coarse input and the fine output.
        ratio: (z, y, x), fine voxels a coarse one.
        device, dtype: of the weight.

    Attributes:
        weight: (out_channels, *ratio, in_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: Triple, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.ratio = in_channels, out_channels, ratio
        self.weight = nn.Parameter(torch.empty((out_channels, *ratio, in_channels), device=device, dtype=dtype))
        if not self.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises for ReLU networks (He et al. 2015): each output reads one tap."""
        nn.init.normal_(self.weight, 0.0, (2.0 / self.in_channels) ** 0.5)

    def forward(self, coarse: SparseTensor, fine: SparseTensor) -> SparseTensor:
        """Returns (N, out_channels) features on the sites of `fine`.

        Args:
            coarse: (M, in_channels) features.
            fine: an earlier level of the same forward; its features do not matter.

        Raises:
            CoordinateMismatchError: the two are not of one forward.
            InvalidInputError: their strides are not of the layer's ratio.
        """
        if coarse.cache is not fine.cache:
            raise CoordinateMismatchError(f"{coarse!r} and {fine!r} come from two inputs; both must be of one forward.")
        ratio = tuple(c // f for c, f in zip(unfold_stride(coarse.stride), unfold_stride(fine.stride), strict=True))
        if ratio != self.ratio:
            raise InvalidInputError(f"{coarse!r} is {ratio} times as coarse as {fine!r}; this layer's ratio is {self.ratio}.")
        window = Window(kernel=self.ratio, stride=self.ratio, new_axis=fine.plan.axis)
        kmap = kernel_map(coarse.cache, fine.coords, coarse.coords, window).inverse
        features: Tensor = convolve(coarse.features, self.weight.to(coarse.features.dtype), kmap, 1)
        return fine.derive(features)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"{self.in_channels}, {self.out_channels}, ratio={'x'.join(map(str, self.ratio))}"
