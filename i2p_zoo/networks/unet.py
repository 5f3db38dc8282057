"""A U-Net on any encoder of the zoo: inverse convolutions back over the encoder's own sites, with skip connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.inverse_convolution import InverseConv3d
from i2p_zoo.layers.normalization import NORMS
from i2p_zoo.modules import eval_mode
from i2p_zoo.networks.models import create_model
from i2p_zoo.networks.presets import new_stem_layers
from i2p_zoo.networks.residual_block import ResidualBlock
from i2p_zoo.sparse.coordinates import Triple
from i2p_zoo.sparse.devoxelization import devoxelize
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import split_clouds, voxelize
from i2p_zoo.zoo.pretrained import from_pretrained

DECODER_CHANNELS = (256, 192, 128, 96, 96)
PRESET_CHANNELS = (512, 256, 192, 192)
PRESET_DROPOUT = 0.3


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


def create_unet(
    name: str,
    num_classes: int,
    *,
    pretrained: bool = True,
    decoder_channels: Sequence[int] | None = None,
    dropout: float | None = None,
    devoxelization: str = "trilinear",
    preset: str | None = None,
    **kwargs: Any,
) -> UNet:
    """Creates a U-Net for the classes of points.

    Args:
        name: of the encoder, as `i2p_zoo.from_pretrained` takes it.
        num_classes: classes of a point.
        pretrained: image weights; False for the same network with random ones.
        decoder_channels: of the decoder's levels, the coarsest first; by default 256, 192, 128, 96, 96.
        dropout: fraction of channels of a voxel dropped before the classifier, in training; by default 0.
        devoxelization: "trilinear" or "nearest".
        preset: "image2point" for the paper's own network on ResNet-18 (or 50, 101, 152): its stem for scenes and shortcuts,
            as `presets.set_preset_`, and a decoder of 512, 256, 192, 192 channels with two residual blocks a level and
            dropout of 0.3 before the first and the third. The original throws the second of these away.
        **kwargs: as `i2p_zoo.from_pretrained` or, without image weights, `i2p_zoo.create_model`: `stem`, `in_chans`,
            `skip_downsamples`, `voxel_size`, `features`, `inflation`.

    Returns:
        The network; the decoder is new.

    Raises:
        I2PError: as these two; InvalidInputError for numbers out of range.

    Example:
        >>> unet = create_unet("test_resnet", num_classes=4, pretrained=False, skip_downsamples=2).eval()
        >>> unet([torch.rand(50, 3), torch.rand(30, 3)]).shape
        torch.Size([80, 4])
    """
    create = from_pretrained if pretrained else create_model
    encoder = create(name, features_only=True, preset=preset, **kwargs)
    if preset:
        decoder_channels = PRESET_CHANNELS if decoder_channels is None else decoder_channels
        dropout = PRESET_DROPOUT if dropout is None else dropout
    return UNet(encoder, num_classes, decoder_channels, dropout or 0.0, devoxelization)


def find_levels(encoder: Any) -> list[Level]:
    """Finds the strides and channels of an encoder's feature maps by running it on one voxel, finest first.

    Raises:
        UnsupportedError: convolutions without padding, which shift the sites, so that they are no longer the input's.
    """
    weight = next(encoder.parameters())
    voxel = SparseTensor(weight.new_zeros(1, encoder.in_chans), torch.zeros(1, 4, dtype=torch.int32, device=weight.device))
    with eval_mode(encoder), torch.no_grad():
        maps = encoder(voxel)
    shifted = sorted({tuple(site) for features in maps for site in features.coords[:, 1:].tolist() if any(site)})
    if shifted:
        raise UnsupportedError(
            f"{encoder.architecture}: convolutions without padding shift its sites, here to {shifted}; a U-Net needs an "
            "encoder whose sites are the input's."
        )
    found: dict[Triple, list[int]] = {}
    for number, features in enumerate(maps):
        stride = features.stride
        found.setdefault((stride,) * 3 if isinstance(stride, int) else stride, []).append(number)
    return [
        Level(sum(maps[number].features.shape[1] for number in numbers), stride, tuple(numbers))
        for stride, numbers in sorted(found.items())
    ]


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
        for (finer, coarser), wanted in zip(steps, widths, strict=True):
            a, b, c = (old // new for old, new in zip(coarser.stride, finer.stride, strict=True))
            self.up.append(InverseConv3d(width, wanted, (a, b, c)))
            self.norms.append(nn.Sequential(nn.BatchNorm2d(wanted), nn.ReLU()) if residual else nn.Identity())
            self.blocks.append((_make_residual if residual else _make_block)(wanted + finer.channels, wanted))
            width = wanted
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


class UNet(nn.Module):
    """An encoder of the zoo with a new decoder; classes of points in the order in which they are given.

    Args:
        encoder: a `PointCloudModel` created with `features_only=True`.
        num_classes, decoder_channels, dropout, devoxelization: as `create_unet`.
        levels: of the encoder; None to find them by running it.

    Raises:
        InvalidInputError: another encoder, or numbers out of range.
    """

    def __init__(
        self,
        encoder: Any,
        num_classes: int,
        decoder_channels: Sequence[int] | None = None,
        dropout: float = 0.0,
        devoxelization: str = "trilinear",
        levels: Sequence[Level] | None = None,
    ) -> None:
        super().__init__()
        channels = DECODER_CHANNELS if decoder_channels is None else tuple(decoder_channels)
        if not getattr(encoder, "model_args", {}).get("features_only"):
            raise InvalidInputError(f"The encoder must be created with features_only=True; got {type(encoder).__qualname__}.")
        if num_classes < 1 or not channels or min(channels) < 1 or not 0 <= dropout < 1:
            raise InvalidInputError(
                f"A U-Net needs num_classes (={num_classes}) and decoder_channels (={channels}) of 1 or more and a dropout "
                f"(={dropout}) of 0 to less than 1."
            )
        if devoxelization not in ("trilinear", "nearest"):
            raise InvalidInputError(f"`devoxelization` must be 'trilinear' or 'nearest'; got {devoxelization!r}.")
        self.encoder, self.num_classes, self.devoxelization = encoder, num_classes, devoxelization
        self.levels = find_levels(encoder) if levels is None else list(levels)
        self.decoder_channels, self.dropout = channels, dropout
        self.decoder = Decoder(self.levels, num_classes, channels, dropout, bool(encoder.settings.preset))
        self.frozen_norms = False
        self.source, self.base = encoder.source, encoder.base
        self.pretrained_cfg = {key: value for key, value in (encoder.pretrained_cfg or {}).items() if key != "label_names"}
        self.architecture, self.model_args, self.in_chans = encoder.architecture, encoder.model_args, encoder.in_chans

    @property
    def settings(self) -> Any:
        """How clouds are read: the encoder's settings."""
        return self.encoder.settings

    def to_config(self) -> dict[str, Any]:
        """Returns what a checkpoint's config says of the decoder, as JSON types."""
        return {
            "levels": [[level.channels, list(level.stride), list(level.maps)] for level in self.levels],
            "decoder_channels": list(self.decoder_channels),
            "dropout": self.dropout,
            "devoxelization": self.devoxelization,
        }

    @classmethod
    def from_config(cls, encoder: Any, num_classes: int, config: dict[str, Any]) -> UNet:
        """Undoes `to_config`; raises InvalidInputError where it does not fit the encoder."""
        levels = [
            Level(channels, (stride[0], stride[1], stride[2]), tuple(maps)) for channels, stride, maps in config["levels"]
        ]
        arguments = config["decoder_channels"], config["dropout"], config["devoxelization"]
        return cls(encoder, num_classes, *arguments, levels)

    def save_pretrained(self, folder: Any, **kwargs: Any) -> Any:
        """Saves config.json, model.safetensors and README.md; see `i2p_zoo.save_pretrained`."""
        from i2p_zoo.checkpoints.saving import save_pretrained

        return save_pretrained(self, folder, **kwargs)

    def get_classifier(self) -> nn.Module:
        """Returns what `i2p_zoo.finetune.freeze` takes for the output layers: those that have no image weights."""
        new = new_stem_layers(self.encoder)
        return nn.ModuleList([self.decoder, *new]) if new else self.decoder

    def forward(self, x: Any) -> Any:
        """Classifies voxels or points.

        Args:
            x: a SparseTensor; or clouds, as `i2p_zoo.voxelize` takes them.

        Returns:
            A SparseTensor of (N, num_classes) logits on the sites of `x`; for clouds (P, num_classes) logits of all points,
            one cloud after the other.
        """
        if isinstance(x, SparseTensor):
            return self._classify(x)
        voxels, index = voxelize(x, self.settings.voxel_size, self.settings.features, return_index=True)
        parameter = next(self.parameters())
        logits = self._classify(voxels.to(device=parameter.device, dtype=parameter.dtype))
        positions = _positions(x, self.settings.voxel_size).to(parameter.device)
        return devoxelize(logits, positions, index.to(parameter.device), self.devoxelization)

    def _classify(self, x: SparseTensor) -> SparseTensor:
        prepared = self.encoder.prepare(x)
        logits: SparseTensor = self.decoder(prepared, self.encoder(prepared))
        return logits

    def train(self, mode: bool = True) -> UNet:
        """Sets training mode; the encoder's normalisation that `i2p_zoo.finetune.freeze` froze stays in eval mode."""
        super().train(mode)
        if self.frozen_norms:
            new = set(self.get_classifier().modules())  # has no image's statistics
            for module in self.encoder.modules():
                if isinstance(module, NORMS) and module not in new:
                    module.eval()
        return self


def _positions(clouds: Any, voxel_size: float) -> Tensor:
    """(P, 4) float64: the number of each point's cloud and its z, y, x in voxels."""
    parts = []
    for number, cloud in enumerate(split_clouds(clouds)):
        points = cloud["points"] if isinstance(cloud, Mapping) else cloud
        points = torch.as_tensor(points if isinstance(points, Tensor) else np.array(points))[:, :3].double()
        parts.append(torch.cat([points.new_full((len(points), 1), number), points.flip(1) / voxel_size], dim=1))
    return torch.cat(parts)
