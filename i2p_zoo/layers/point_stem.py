"""Layers of the point stem, which run at stride 1 and count the halvings of the image stem's layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import keep
from i2p_zoo.sparse.geometry import Padding
from i2p_zoo.sparse.tensor import SparseTensor


class PointStemConv3d(SparseConv3d):
    """A stem convolution at stride 1 that counts the halvings of the strided image stem it replaced.

    Args:
        halvings: of the 2D network's convolution, for `Plan.level`.
        **kwargs: as `SparseConv3d`.
    """

    def __init__(self, *, halvings: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.halvings = halvings

    def forward(self, x: Any) -> Any:
        """Convolves (N, C) features on their own sites."""
        out = super().forward(x)
        return pass_halvings(out, self.halvings) if isinstance(out, SparseTensor) else out


keep(PointStemConv3d)


class DroppedPool(nn.Module):
    """Stands where a stem's pooling was dropped: hands its input on and counts the halvings of the 2D layer."""

    def __init__(self, halvings: int) -> None:
        super().__init__()
        self.halvings = halvings

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Returns the same sites and features; a padding that was meant for the pool is dropped with it."""
        return pass_halvings(x.derive(x.features, padding=Padding()), self.halvings)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        return f"halvings={self.halvings}"


def pass_halvings(x: SparseTensor, halvings: int) -> SparseTensor:
    """Counts halvings that the 2D network does and this one does not; the canvas shrinks by them."""
    canvas = x.canvas and (-(-x.canvas[0] // 2**halvings), -(-x.canvas[1] // 2**halvings))
    return x.derive(x.features, canvas=canvas).with_plan(level=x.plan.level + halvings)
