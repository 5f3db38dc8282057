"""A Conv3d whose third side is features: the same plane of weights for every feature (Lambda layers)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_tokens import as_tokens


class FeatureConv3d(SparseConv3d):
    """A Conv3d over (height, width, features) with a kernel of 1 along the features, all of which have one plane of weights."""

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """Returns the 3D tensor of a (out, in, ky, kx, 1) one, or None where it is copied."""
        return super().inflate_tensor(name, source.squeeze(4) if name == "weight" else source, inflation)

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`."""
        flat = super().deflate_tensor(name, inflated, inflation)
        return None if flat is None else flat.unsqueeze(4)

    def forward(self, x: Any) -> Any:
        """Convolves (batch, 1, height, width, features) to (batch, out, height, width, features); raises UnsupportedError."""
        x = as_tokens(x)
        batch, _, height, width, features = x.shape
        sites = x.reshape(batch, height, width, features).permute(0, 3, 1, 2)
        if not isinstance(sites, SparseTensor):
            raise UnsupportedError(f"A convolution of {x!r}: expected (batch, 1, height, width, features) of an image.")
        weight = self.weight.repeat(features, 1, 1, 1, 1)  # (features * out, kz, ky, kx, 1)
        bias = None if self.bias is None else self.bias.repeat(features)
        out = as_tokens(self.convolve(sites, weight, bias, features))
        return out.reshape(batch, features, self.out_channels, height, width).permute(0, 2, 3, 4, 1)


@replaces(nn.Conv3d)
def build_feature_convolution(leaf: nn.Conv3d, axis: str, depth: int | None, inflation: str) -> FeatureConv3d:
    """Builds the counterpart of a Conv3d of one channel whose kernel is a plane.

    Raises:
        UnsupportedError: any other Conv3d: a 2D network has no third side but features.
    """
    rows, columns, features = leaf.kernel_size
    if (leaf.in_channels, features, leaf.stride, leaf.dilation, leaf.padding_mode) != (1, 1, (1, 1, 1), (1, 1, 1), "zeros"):
        raise UnsupportedError(
            f"in_channels={leaf.in_channels}, kernel_size={leaf.kernel_size}, stride={leaf.stride}; only one channel, a "
            "kernel of 1 along the last side, and stride 1"
        )
    if isinstance(leaf.padding, str) or leaf.padding[2] != 0:
        raise UnsupportedError(f"padding={leaf.padding!r}; only numbers, and 0 along the last side")
    top, left = leaf.padding[0], leaf.padding[1]
    return FeatureConv3d(
        in_channels=1,
        out_channels=leaf.out_channels,
        kernel_size=(rows, columns),
        stride=1,
        padding=((top, top), (left, left)),
        bias=leaf.bias is not None,
        axis=axis,
        depth=None if depth is None else min(depth, max(rows, columns)),
        device="meta",
        dtype=leaf.weight.dtype,
    )


keep(FeatureConv3d)
