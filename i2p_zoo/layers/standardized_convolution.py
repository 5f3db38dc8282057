"""Convolutions whose weight is standardised before each use (BiT's StdConv2d, NFNet's ScaledStdConv2d)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from i2p_zoo.layers.convolution import SparseConv3d, convolution_arguments
from i2p_zoo.layers.kernel_inflation import plane_shares
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.geometry import AXES


class SparseStdConv3d(SparseConv3d):
    """A sparse convolution that standardises its weight such that standardising and inflating commute.

    Mean and variance are those of the 2D kernel that the planes along the new axis make up together, and each plane gives up
    the share of the mean that inflation gave it. An inflated weight is thus used as the inflation of the 2D layer's
    standardised weight (Qiao et al. 2019; scaled: Brock et al. 2021).

    Args:
        inflation: "center", "triangle", "average" or "copy": how the weight was, or is to be, inflated.
        eps: added to the variance.
        gamma: the nonlinearity's constant, for the scaled kind, which has a learned `gain` an output channel; else None.
        **kwargs: as `SparseConv3d`.

    Attributes:
        gain: (out_channels, 1, 1, 1), or None.
    """

    gain: nn.Parameter | None

    def __init__(self, *, inflation: str, eps: float, gamma: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inflation, self.eps, self.gamma = inflation, eps, gamma
        if gamma is None:
            self.register_parameter("gain", None)
        else:
            self.gain = nn.Parameter(torch.ones_like(self.weight[:, :1, :1, :1, 0]))

    def reset_parameters(self) -> None:
        """Initialises the weight as `SparseConv3d` does, the gain to one."""
        super().reset_parameters()
        gain = getattr(self, "gain", None)
        if gain is not None:
            nn.init.ones_(gain)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"{super().extra_repr()}, inflation={self.inflation}, gamma={self.gamma and round(self.gamma, 6)}"

    def kernel(self) -> Tensor:
        """Returns the standardised weight, (out_channels, kz, ky, kx, in_channels / groups)."""
        dim = 1 + AXES[self.axis]
        shares = self.weight.new_tensor(plane_shares(self.inflation, self.weight.shape[dim]))
        shape = [1] * 5
        shape[dim] = len(shares)
        kernel = self.weight.sum(dim, keepdim=True) / shares.sum()
        variance, mean = torch.var_mean(kernel, dim=(1, 2, 3, 4), correction=0, keepdim=True)
        weight: Tensor = (self.weight - shares.view(shape) * mean) * (variance + self.eps).rsqrt()
        if self.gain is not None and self.gamma is not None:
            weight = weight * (self.gain[..., None] * (self.gamma * kernel[0].numel() ** -0.5))
        return weight


keep(SparseStdConv3d)


@replaces(StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
def build_standardized_convolution(leaf: Any, axis: str, depth: int | None, inflation: str) -> SparseStdConv3d:
    """Builds the 3D layer of timm's weight-standardised convolutions."""
    scale = getattr(leaf, "scale", None)
    return SparseStdConv3d(
        inflation=inflation,
        eps=leaf.eps,
        gamma=None if scale is None else scale * leaf.weight[0].numel() ** 0.5,
        **convolution_arguments(leaf, axis, depth, same=getattr(leaf, "same_pad", False)),
    )
