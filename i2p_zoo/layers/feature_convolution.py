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
    """A Conv3d over (height, width, features) with a kernel of 1 along the last: the same plane of weights for every feature."""

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """(out, in, ky, kx, 1) as a 2D kernel."""
        return super().inflate_tensor(name, source.squeeze(4) if name == "weight" else source, inflation)

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`."""
        flat = super().deflate_tensor(name, inflated, inflation)
        return None if flat is None else flat.unsqueeze(4)

    def forward(self, x: Any) -> Any:
        """(batch, 1, height, width, features) to (batch, out, height, width, features)."""
        x = as_tokens(x)
        batch, _, height, width, features = x.shape
        site = x.reshape(batch, height, width, features).permute(0, 3, 1, 2)
        if self.in_channels != 1 or not isinstance(site, SparseTensor):
            raise UnsupportedError(f"A sparse convolution of {x!r}.")
        weight = self.weight.repeat(features, 1, 1, 1, 1)  # (features * out, kz, ky, kx, 1)
        bias = None if self.bias is None else self.bias.repeat(features)
        out = as_tokens(self.convolve(site, weight, bias, features)).reshape(batch, features, self.out_channels, height, width)
        return out.permute(0, 2, 3, 4, 1)


@replaces(nn.Conv3d)
def build_feature_convolution(leaf: nn.Conv3d, axis: str, depth: int | None, inflation: str) -> nn.Module:
    """Builds the counterpart of a Conv3d that is a plane's."""
    if leaf.kernel_size[2] != 1 or leaf.stride != (1, 1, 1) or leaf.groups != 1:
        raise UnsupportedError(f"kernel_size={leaf.kernel_size}, stride={leaf.stride}, groups={leaf.groups}")
    (top, left, _) = leaf.padding
    return FeatureConv3d(
        in_channels=leaf.in_channels,
        out_channels=leaf.out_channels,
        kernel_size=leaf.kernel_size[:2],
        stride=1,
        padding=((top, top), (left, left)),
        bias=leaf.bias is not None,
        axis=axis,
        device="meta",
        dtype=leaf.weight.dtype,
    )


keep(FeatureConv3d)
