"""Layers of the point stem, which run at stride 1 and count the halvings of the image stem's layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import keep
from i2p_zoo.sparse.geometry import Padding, Pair
from i2p_zoo.sparse.tensor import SparseTensor


class PointStemConv3d(SparseConv3d):
    """A stem convolution at stride 1 that counts the halvings of the strided image stem it replaced.

    Args:
        halvings: of the 2D network's convolution, for `Plan.level`.
        stride_2d: by which it shrinks the image, which is no power of two in a patch embedding of 14 pixels.
        margin_2d: (height, width) pixels that its window and padding take off or, negative, put on before that: its output is
            (image - margin) / stride, rounded up.
        **kwargs: as `SparseConv3d`.
    """

    def __init__(self, *, halvings: int, stride_2d: int, margin_2d: Pair = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.halvings, self.stride_2d, self.margin_2d = halvings, stride_2d, margin_2d

    def forward(self, x: Any) -> Any:
        """Convolves (N, C) features on their own sites."""
        out = super().forward(x)
        if not isinstance(out, SparseTensor):
            return out
        return pass_halvings(out, self.halvings, self.stride_2d, self.margin_2d)


keep(PointStemConv3d)


class DroppedPool(nn.Module):
    """Stands where a stem's pooling was dropped: hands its input on and counts the halvings of the 2D layer."""

    def __init__(self, halvings: int) -> None:
        super().__init__()
        self.halvings, self.stride_2d = halvings, 2**halvings

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Returns the same sites and features; a padding that was meant for the pool is dropped with it."""
        return pass_halvings(x.derive(x.features, padding=Padding()), self.halvings, self.stride_2d)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"halvings={self.halvings}"


def pass_halvings(x: SparseTensor, halvings: int, stride: int, margin: Pair = (0, 0)) -> SparseTensor:
    """Counts halvings that the 2D network does and this one does not; the canvas shrinks as its image does."""
    canvas = x.canvas and (-(-(x.canvas[0] - margin[0]) // stride), -(-(x.canvas[1] - margin[1]) // stride))
    return x.derive(x.features, canvas=canvas).with_plan(level=x.plan.level + halvings)
