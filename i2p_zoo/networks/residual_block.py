"""Image2Point's residual block, of which its decoder is made."""

from __future__ import annotations

from torch import nn

from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.sparse.tensor import SparseTensor


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut, which is a 2x2x2 convolution where the channels change.

    Args:
        in_channels, out_channels: of the block.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SparseConv3d(in_channels, out_channels, 3, bias=False), nn.BatchNorm2d(out_channels)
        self.conv2, self.bn2 = SparseConv3d(out_channels, out_channels, 3, bias=False), nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            convolution = SparseConv3d(in_channels, out_channels, 2, 1, ((0, 0), (0, 0)), bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Returns (N, out_channels) features on the sites of `x`."""
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        added: SparseTensor = self.act(out + self.shortcut(x))
        return added
