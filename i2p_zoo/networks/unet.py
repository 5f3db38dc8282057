"""A U-Net on any encoder of the zoo: it gives each point a class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from i2p_zoo.checkpoints.config import make_config
from i2p_zoo.choices import DEVOXELIZATIONS
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.modules import eval_mode
from i2p_zoo.networks.changes import apply_changes_, note_changes
from i2p_zoo.networks.decoder import Decoder, Level
from i2p_zoo.networks.network import EncoderNetwork
from i2p_zoo.networks.point_cloud_model import PointCloudModel
from i2p_zoo.networks.presets import new_stem_layers
from i2p_zoo.sparse.autograd_limits import check_transforms, run_uncompiled
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.devoxelization import devoxelize
from i2p_zoo.sparse.geometry import Triple, unfold_stride
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import split_clouds

DECODER_CHANNELS = (256, 192, 128, 96, 96)
MOST_TAPS = 512  # of a step of the decoder: a finest feature map 16 times as coarse as the voxels takes 4,096


class UNet(EncoderNetwork):
    """An encoder of the zoo with a new decoder; classes of points in the order in which they are given.

    Args:
        encoder: a `PointCloudModel` created with `features_only=True`.
        num_classes, decoder_channels, dropout, devoxelization: as `create_unet`.
        levels: of the encoder; None to find them by running it.

    Raises:
        InvalidInputError: another encoder, or numbers out of range.
        UnsupportedError: the encoder shifts the sites, or its finest feature map is too coarse for a step back to the voxels.
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
        super().__init__(encoder)
        channels = DECODER_CHANNELS if decoder_channels is None else tuple(decoder_channels)
        if num_classes < 1 or not channels or min(channels) < 1 or not 0 <= dropout < 1:
            raise InvalidInputError(
                f"A U-Net needs num_classes (={num_classes}) and decoder_channels (={channels}) of 1 or more and a dropout "
                f"(={dropout}) of 0 to less than 1."
            )
        if devoxelization not in DEVOXELIZATIONS:
            raise InvalidInputError(f"`devoxelization` must be 'trilinear' or 'nearest'; got {devoxelization!r}.")
        self.num_classes, self.devoxelization = num_classes, devoxelization
        self.levels = find_levels(encoder) if levels is None else list(levels)
        if levels is None:
            _check_steps(encoder.architecture, self.levels)
        self.decoder_channels, self.dropout = channels, dropout
        self.decoder = Decoder(self.levels, num_classes, channels, dropout, bool(encoder.settings.preset))

    def to_config(self) -> dict[str, Any]:
        """Returns the network's config, as JSON types, without what is known of a checkpoint's files.

        Raises:
            InvalidInputError: the encoder was not made from a timm architecture, or has an argument that JSON cannot hold.
        """
        config = make_config(self)
        config["num_classes"] = self.num_classes
        config["i2p"]["unet"] = {
            "levels": [[level.channels, list(level.stride), list(level.maps)] for level in self.levels],
            "decoder_channels": list(self.decoder_channels),
            "dropout": self.dropout,
            "devoxelization": self.devoxelization,
        }
        return note_changes(self, config, "decoder.head")

    @staticmethod
    def from_config(config: dict[str, Any]) -> UNet:
        """Undoes `to_config`, without weights: they are on the meta device.

        Raises:
            InvalidInputError: what the config says of the decoder does not fit the encoder.
            NotFoundError: timm has no such architecture.
        """
        plain = {**config, "i2p": {key: value for key, value in config["i2p"].items() if key != "changes"}}
        encoder, parts = PointCloudModel.from_config(plain), config["i2p"]["unet"]
        levels = [Level(channels, (stride[0], stride[1], stride[2]), tuple(maps)) for channels, stride, maps in parts["levels"]]
        arguments = parts["decoder_channels"], parts["dropout"], parts["devoxelization"]
        with torch.device("meta"):
            unet = UNet(encoder, config["num_classes"], *arguments, levels)
        result: UNet = apply_changes_(unet, config["i2p"].get("changes", {}))
        return result

    def get_classifier(self) -> nn.Module:
        """Returns what `i2p_zoo.finetune.freeze` takes for the output layers: those that have no image weights."""
        new = new_stem_layers(self.encoder)
        return nn.ModuleList([self.decoder, *new]) if new else self.decoder

    @run_uncompiled
    def forward(self, x: Any, points: Tensor | None = None, index: Tensor | None = None) -> Any:
        """Classifies voxels or points.

        Args:
            x: a SparseTensor; or clouds, as `i2p_zoo.voxelize` takes them.
            points: (P, 3) of which a SparseTensor was voxelized, one cloud after the other, to classify them and not voxels.
            index: (P,) the row of each point's voxel, as `i2p_zoo.voxelize` returns it.

        Returns:
            A SparseTensor of (N, num_classes) logits on the sites of `x`; for clouds, or with `points`, (P, num_classes)
            logits of all points, one cloud after the other.

        Raises:
            InvalidInputError: `points` without `index` or the reverse, or beside clouds, which have points of their own.
            UnsupportedError: torch records a graph, or this runs inside a transform of `torch.func`.
        """
        check_transforms()
        is_voxels = isinstance(x, SparseTensor)
        if (points is None) != (index is None) or (points is not None and not is_voxels):
            raise InvalidInputError("`points` and `index` go together, beside the SparseTensor that was voxelized of them.")
        if not is_voxels:
            clouds = x
            x, index = self.settings.voxelize(clouds)
            points = join_points(clouds)
        logits = self._classify(x)
        if points is None or index is None:
            return logits
        cells = points[:, :3].double().flip(1) / self.settings.voxel_size
        positions = torch.cat([x.coords[index, :1].double(), cells], dim=1).to(logits.device)
        return devoxelize(logits, positions, index.to(logits.device), self.devoxelization)

    def _classify(self, x: SparseTensor) -> SparseTensor:
        prepared = self.encoder.prepare(x)
        logits: SparseTensor = self.decoder(prepared, self.encoder(prepared))
        if logits.canvas == x.canvas:
            return logits
        coords = x.coords.to(logits.device)  # those of the points: a canvas has moved the network's own
        return logits.derive(logits.features, coords=coords, cache=SiteCache(), canvas=x.canvas)


def join_points(clouds: Any) -> Tensor:
    """Returns the points of clouds, as `i2p_zoo.voxelize` takes them, one cloud after the other: (P, 3)."""
    parts = []
    for cloud in split_clouds(clouds):
        points = cloud["points"] if isinstance(cloud, Mapping) else cloud
        parts.append(torch.as_tensor(points if isinstance(points, Tensor) else np.array(points))[:, :3])
    alike = len({part.dtype for part in parts}) == 1
    return torch.cat(parts if alike else [part.double() for part in parts])


def _check_steps(name: str | None, levels: Sequence[Level]) -> None:
    """Raises UnsupportedError where the decoder would have a step of more than `MOST_TAPS` taps."""
    finer: Triple = (1, 1, 1)
    for level in levels:
        ratio = [coarse // fine for coarse, fine in zip(level.stride, finer, strict=True)]
        if math.prod(ratio) > MOST_TAPS:
            raise UnsupportedError(
                f"{name}: the step from its feature map of stride {max(level.stride)} back to stride {max(finer)} would have "
                f"{math.prod(ratio):,} taps; the most is {MOST_TAPS}. Give stem='point' or stem='patch', which keep more "
                "voxels apart, or an encoder with finer feature maps."
            )
        finer = level.stride


def _shifts(features: SparseTensor, voxels: SparseTensor) -> Tensor:
    """(N, 3): how far the sites of a feature map of one voxel stand from where that voxel is at their stride."""
    stride = torch.tensor(unfold_stride(features.stride), device=voxels.device)
    return features.coords[:, 1:] - torch.div(voxels.coords[:, 1:], stride, rounding_mode="floor")


def find_levels(encoder: Any) -> list[Level]:
    """Finds the strides and channels of an encoder's feature maps by running it on one voxel, finest first.

    Raises:
        UnsupportedError: convolutions without padding, which shift the sites, so that they are no longer the input's.
    """
    weight = next(encoder.parameters())
    voxel = SparseTensor(weight.new_zeros(1, encoder.in_chans), torch.zeros(1, 4, dtype=torch.int32, device=weight.device))
    voxel = encoder.prepare(voxel)
    with eval_mode(encoder), torch.no_grad():
        maps = encoder(voxel)
    shifted = sorted({tuple(shift) for features in maps for shift in _shifts(features, voxel).tolist() if any(shift)})
    if shifted:
        raise UnsupportedError(
            f"{encoder.architecture}: convolutions without padding shift its sites, here to {shifted}; a U-Net needs an "
            "encoder whose sites are the input's."
        )
    maps_of: dict[Triple, list[int]] = {}
    for number, features in enumerate(maps):
        maps_of.setdefault(unfold_stride(features.stride), []).append(number)
    return [
        Level(sum(maps[number].features.shape[1] for number in numbers), stride, tuple(numbers))
        for stride, numbers in sorted(maps_of.items())
    ]
