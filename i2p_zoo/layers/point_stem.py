"""Layers of the stems for points, which have strides of 1 or 2 and count the halvings of the image stem's layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import keep
from i2p_zoo.sparse.geometry import Padding, Pair
from i2p_zoo.sparse.tensor import SparseTensor


class PointStemConv3d(SparseConv3d):
    """A stem convolution at stride 1 or 2 that counts those halvings of the image stem it replaced that it does not do.

    Args:
        halvings: that it does not do, for `Plan.level`.
        stride_2d: by which these shrink the image, which is no power of two in a patch embedding of 14 pixels.
        margin_2d: (height, width) pixels that the image stem's window and padding take off or, negative, put on before its
            stride: its output is (image - margin) / stride, rounded up.
        **kwargs: as `SparseConv3d`.
    """

    def __init__(self, *, halvings: int, stride_2d: int, margin_2d: Pair = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.halvings, self.stride_2d, self.margin_2d = halvings, stride_2d, margin_2d

    def forward(self, x: Any) -> Any:
        """Convolves (N, C) features, at stride 1 on their own sites."""
        if isinstance(x, SparseTensor):
            x = pass_halvings(x, self.halvings, self.stride_2d, self.margin_2d, max(self.stride))
        return super().forward(x)


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


def dropped_stride(model: nn.Module) -> int:
    """Returns by how much a network's stem for points strides less than its image stem, 1 where it has no such stem."""
    layers = [module for module in model.modules() if isinstance(module, PointStemConv3d | DroppedPool)]
    convolutions, pools = (
        [layer.stride_2d for layer in layers if isinstance(layer, sort)] for sort in (PointStemConv3d, DroppedPool)
    )
    return max(convolutions, default=1) * max(pools, default=1)  # several of either stand side by side


def pass_halvings(x: SparseTensor, halvings: int, stride: int, margin: Pair = (0, 0), step: int = 1) -> SparseTensor:
    """Counts halvings that the 2D network does and this one does not; the canvas shrinks as its image does.

    Args:
        x: the input of a layer.
        halvings: that are not done.
        stride: by which they shrink the image.
        margin: (height, width) pixels that the 2D layer takes off before.
        step: the stride that the layer itself goes on with.
    """
    height, width = x.canvas or (0, 0)
    sides = [-(-(side - cut) // (stride * step)) * step for side, cut in zip((height, width), margin, strict=True)]
    canvas = None if x.canvas is None else (sides[0], sides[1])
    return x.derive(x.features, canvas=canvas).with_plan(level=x.plan.level + halvings)
