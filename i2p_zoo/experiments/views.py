"""A rival to inflation: timm's 2D network, with the same image weights, on depth images of a cloud from six sides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers.normalization import keep_norms_in_eval_
from i2p_zoo.names import split_name
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.zoo.conversion import load_image_network

SIDES = 6
VIEW_VOXEL = 0.02
"""Edge of a voxel whose points are drawn as one, in the unit sphere's radius."""
_REACH = 1.35  # what an image shows of the unit sphere's radius: an augmented cloud is scaled by 1.1 and shifted by 0.2
_FAR = 0.25  # brightness of the farthest point, against a background of 0


class ViewNetwork(nn.Module):
    """A 2D network that sees a cloud from six sides and classifies the mean of their features (SimpleView, Goyal et al. 2021).

    It takes what a `PointCloudModel` takes, so that the same training and evaluation run it.

    Args:
        network: timm's 2D classifier of three channels, which takes images of any size and has one linear classifier.
        size: edge of an image in pixels.
        splat: edge in pixels of the square that a point covers, odd.
        voxel_size: points of one voxel are one point, their mean.

    Raises:
        InvalidInputError: a size below 8, or an even splat.

    Example:
        >>> import numpy as np, timm
        >>> model = ViewNetwork(timm.create_model("test_resnet", num_classes=4), size=64).eval()
        >>> model([np.random.rand(100, 3), np.random.rand(20, 3)]).shape
        torch.Size([2, 4])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, size: int = 128, splat: int = 5, voxel_size: float = VIEW_VOXEL) -> None:
        super().__init__()
        if size < 8 or splat < 1 or splat % 2 == 0:
            raise InvalidInputError(f"Views need a size of 8 pixels or more and an odd splat; got {size} and {splat}.")
        self.network, self.size, self.splat = network, size, splat
        self.settings = Settings(voxel_size=voxel_size)
        self.frozen_norms = False
        self.pretrained_cfg = dict(getattr(network, "pretrained_cfg", None) or {})
        mean, std = (torch.tensor(self.pretrained_cfg.get(key, [0.5] * 3)).view(3, 1, 1) for key in ("mean", "std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.network.num_classes)

    def get_classifier(self) -> nn.Module:
        """Returns the 2D network's classifier."""
        classifier: nn.Module = self.network.get_classifier()
        return classifier

    def train(self, mode: bool = True) -> ViewNetwork:
        """Sets training mode; normalisation that `i2p_zoo.finetune.freeze` froze stays in eval."""
        super().train(mode)
        if self.frozen_norms:
            keep_norms_in_eval_(self)
        return self

    def forward(self, clouds: Any) -> Tensor:
        """Returns (B, K) logits of clouds, as points or as voxels that carry their coordinates."""
        x = clouds if isinstance(clouds, SparseTensor) else self.settings.voxelize(clouds)[0]
        images = render_depth(x.features, x.coords[:, 0], x.batch_size, self.size, self.splat)
        pictures = (images.flatten(0, 1)[:, None].to(self.mean.dtype) - self.mean) / self.std
        features: Tensor = self.network.forward_head(self.network.forward_features(pictures), pre_logits=True)
        logits: Tensor = self.get_classifier()(features.unflatten(0, (x.batch_size, SIDES)).mean(1))
        return logits


def build_view_network(model: str, classes: int, scratch: bool, voxel_size: float) -> ViewNetwork:
    """Creates a view network of timm's 2D network with a new classifier.

    Args:
        model: a zoo or timm name, with optional tag.
        classes: how many.
        scratch: random weights in place of the image's.
        voxel_size: as `ViewNetwork`.

    Raises:
        NotFoundError, CheckpointError: as `i2p_zoo.zoo.conversion.load_image_network`.
    """
    network: Any = create_timm_model(split_name(model)[0]) if scratch else load_image_network(model)[0]
    network.reset_classifier(classes)
    return ViewNetwork(network, voxel_size=voxel_size)


def render_depth(points: Tensor, batch: Tensor, batch_size: int, size: int, splat: int = 1) -> Tensor:
    """Draws depth images of clouds within the unit sphere from the six sides of a cube, by parallel projection.

    Args:
        points: (N, 3) floating point x, y, z.
        batch: (N,) the cloud of each.
        batch_size: number of clouds, B.
        size: edge of an image in pixels, S.
        splat: edge in pixels of the square that a point covers.

    Returns:
        (B, 6, S, S) brightness: 1 at the nearest point that an image can show, 0.25 at the farthest, 0 where there is none.
        Sides are -x, +x, -y, +y, -z, +z; a nearer point hides a farther one. Points beyond the image stand at its edge.
    """
    place = ((points / _REACH + 1) / 2).clamp(0, 1)
    pixel = (place * size).long().clamp(max=size - 1)
    images = points.new_zeros(batch_size * SIDES * size * size)
    for axis in range(3):
        right, up = (other for other in range(3) if other != axis)
        for towards in range(2):
            depth = place[:, axis] if towards else 1 - place[:, axis]
            column = pixel[:, right] if towards else size - 1 - pixel[:, right]
            row = size - 1 - pixel[:, up]
            image = batch.long() * SIDES + 2 * axis + towards
            brightness = _FAR + (1 - _FAR) * depth
            images.scatter_reduce_(0, (image * size + row) * size + column, brightness, "amax")
    drawn = images.view(batch_size, SIDES, size, size)
    return F.max_pool2d(drawn, splat, stride=1, padding=splat // 2)
