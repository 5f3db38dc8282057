"""The 2D network that an inflated one was made of, on depth images of the cloud: what six views of it look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.inflation.state import deflate_state, named_tensors
from i2p_zoo.modules import image_size
from i2p_zoo.networks.depth_images import SIDES, draw_sides
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.tensor import SparseTensor

_SIZE = 128  # pixels a side of an image, for networks that take any size
_SPLAT = 5 / 128  # of a side, that a voxel covers
_WITHOUT = "Without views (readout 'pyramid') any will do."


class SideViews(nn.Module):
    """A 2D feature extractor that sees clouds from six sides: the mean of every feature map over its pixels, side by side.

    It draws the voxels that a network reads, which carry their coordinates in the unit sphere, by their depth (`draw_sides`;
    the idea of SimpleView, Goyal et al. 2021, "Revisiting point cloud shape classification with a simple and effective
    baseline").

    Args:
        network: timm's, created with `features_only=True`, of three channels.
        size: edge of an image in pixels.
        colors: timm's configuration of the weights, whose `mean` and `std` images get; by default the network's own.

    Example:
        >>> import timm
        >>> views = SideViews(timm.create_model("test_resnet", features_only=True), 64)
        >>> x = SparseTensor(torch.rand(5, 3), torch.tensor([[0, 0, 0, i] for i in range(5)], dtype=torch.int32))
        >>> tuple(views(x).shape), sum(views.network.feature_info.channels())
        ((1, 2400), 400)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, size: int, colors: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.splat = max(1, round(size * _SPLAT)) // 2 * 2 + 1
        colors = colors or getattr(network, "pretrained_cfg", None) or {}
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(colors.get(key, [0.5] * 3)).view(3, 1, 1))

    @property
    def channels(self) -> int:
        """Channels of all feature maps of a side together."""
        return int(sum(self.network.feature_info.channels()))

    def forward(self, x: SparseTensor) -> Tensor:
        """Returns (B, 6 * channels) features of voxels whose first three are x, y, z; each map of a side has length 1."""
        maps = self.network(draw_sides(x, self.size, self.splat, self.mean, self.std))
        rows = []
        for features, channels in zip(maps, self.network.feature_info.channels(), strict=True):
            channels_first = features if features.shape[1] == channels else features.movedim(-1, 1)
            rows.append(F.normalize(channels_first.mean((2, 3)), dim=1))
        joined = torch.cat(rows, dim=1)
        return joined.view(x.batch_size, SIDES * joined.shape[1])


def create_side_views(encoder: Any) -> SideViews:
    """Gives the views of an encoder's clouds to the 2D network whose inflation it is.

    Its kernels are those that were inflated, everything else is the encoder's as it is: of one whose normalisation was adapted
    to clouds, that of clouds.

    Args:
        encoder: a `PointCloudModel` created with `features_only=True`, with its image stem; left as it is.

    Raises:
        InvalidInputError: another stem, other features than coordinates, another number of channels, or kernels that are no
            inflations any more.
        UnsupportedError: a network for images that are not square, or that takes no such images.
    """
    settings = encoder.provenance.settings
    if settings.stem != "image" or encoder.in_chans != 3 or settings.features != "xyz":
        raise InvalidInputError(
            "Views need an encoder with its image stem, on features 'xyz', which are drawn; got "
            f"stem={settings.stem!r}, {encoder.in_chans} channels and features={settings.features!r}. {_WITHOUT}"
        )
    views = build_side_views(encoder, _choose_size(encoder))
    state, targets = deflate_state(encoder, named_tensors(encoder)), views.network.state_dict()
    changed = [key for key, target in targets.items() if key not in state or state[key].shape != target.shape]
    if changed:
        raise InvalidInputError(
            f"Views need the 2D kernels that the encoder was inflated from, and {changed[0]} is no inflation any more, since "
            f"it was trained or rounded to half precision: take the network that it was made of. {_WITHOUT}"
        )
    views.network.load_state_dict({key: state[key].clone() for key in targets})
    return views.to(next(encoder.parameters())).train(encoder.training)


def build_side_views(encoder: Any, size: int, structure: bool = False) -> SideViews:
    """Builds the views of an encoder, images of `size` pixels a side, with random weights or, as a structure, none.

    The caller's random state stays.
    """
    with torch.random.fork_rng(devices=[]):
        network = create_timm_model(encoder.architecture, structure=structure, **encoder.model_args)
        saved = network.state_dict()
        if structure and any(buffer.is_meta and name not in saved for name, buffer in network.named_buffers()):
            network = create_timm_model(encoder.architecture, **encoder.model_args)  # such values are in no file
    return SideViews(network, size, encoder.pretrained_cfg)


def _choose_size(encoder: Any) -> int:
    """Returns the pixels a side that an encoder's 2D network takes, tried with an empty image; raises UnsupportedError."""
    canvas = encoder.provenance.settings.canvas
    network = build_side_views(encoder, _SIZE).network.eval()
    for height, width in (canvas or (_SIZE, _SIZE), image_size(network) or (_SIZE, _SIZE)):
        try:
            with torch.no_grad():
                network(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError):  # as timm's networks refuse a size
            continue
        if height == width:
            return int(height)
    raise UnsupportedError(f"{encoder.architecture} takes no square images, which views are. {_WITHOUT}")
