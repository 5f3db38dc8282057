"""The decoder of a U-Net: inverse convolutions back over the encoder's own sites, with skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.inverse_convolution import InverseConv3d
from i2p_zoo.sparse.geometry import Triple
from i2p_zoo.sparse.tensor import SparseTensor


@dataclass(frozen=True)
class Level:
    """The encoder's feature maps of one stride.

    Attributes:
        channels: of all of them together.
        stride: (z, y, x) in input voxels.
        maps: their numbers among the encoder's outputs.
    """

    channels: int
    stride: Triple
    maps: tuple[int, ...]


class Decoder(nn.Module):
    """Goes back up the levels: an inverse convolution, the encoder's features beside it, a convolution; then a classifier.

    Args:
        levels: of the encoder, finest first; a finest one above stride 1 gets one more step, to the input's own sites.
        num_classes: of the classifier.
        channels: of each step.
        dropout: before the classifier.
        residual: Image2Point's steps: BatchNorm and ReLU behind the inverse convolution, then two residual blocks; and its
            dropout, before the first and the third step in place of before the classifier.
    """

    def __init__(
        self, levels: Sequence[Level], num_classes: int, channels: Sequence[int], dropout: float, residual: bool = False
    ) -> None:
        super().__init__()
        self.levels = list(levels)
        if self.levels[0].stride != (1, 1, 1):
            self.levels.insert(0, Level(0, (1, 1, 1), ()))
        steps = list(zip(self.levels[-2::-1], self.levels[:0:-1], strict=True))  # (finer, coarser), coarsest first
        widths = [*channels, *[channels[-1]] * len(steps)][: len(steps)]
        self.up, self.norms, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = self.levels[-1].channels
        for (finer, coarser), channels_out in zip(steps, widths, strict=True):
            a, b, c = (old // new for old, new in zip(coarser.stride, finer.stride, strict=True))
            self.up.append(InverseConv3d(width, channels_out, (a, b, c)))
            self.norms.append(nn.Sequential(nn.BatchNorm2d(channels_out), nn.ReLU()) if residual else nn.Identity())
            self.blocks.append((_make_residual if residual else _make_block)(channels_out + finer.channels, channels_out))
            width = channels_out
        self.dropout, self.dropped = nn.Dropout(dropout), (0, 2) if residual else (len(steps),)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: SparseTensor, maps: Sequence[SparseTensor]) -> SparseTensor:
        """Returns (N, num_classes) logits on the sites of `x`.

        Args:
            x: the encoder's input.
            maps: its outputs.
        """
        out = _concatenate([maps[number] for number in self.levels[-1].maps])
        layers = zip(self.up, self.norms, self.blocks, self.levels[-2::-1], strict=True)
        for step, (up, norm, block, level) in enumerate(layers):
            fine = maps[level.maps[0]] if level.maps else x
            raised = norm(up(self._drop(out, step), fine))
            out = block(_concatenate([raised, *(maps[number] for number in level.maps)]))
        out = self._drop(out, len(self.blocks))
        return out.derive(self.head(out.features))

    def _drop(self, x: SparseTensor, step: int) -> SparseTensor:
        return x.derive(self.dropout(x.features)) if step in self.dropped else x


def _concatenate(maps: Sequence[SparseTensor]) -> SparseTensor:
    concatenate: Any = torch.cat  # which sparse tensors take too
    firsts = [features.derive(features.features, channels_last=False) for features in maps]  # MambaOut's are last
    joined: SparseTensor = concatenate(firsts, dim=1)
    return joined


def _make_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(SparseConv3d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _make_residual(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(inputs, outputs), ResidualBlock(outputs, outputs))


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
