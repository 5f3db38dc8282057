"""A rival to inflation: timm's 2D network, with the same image weights, on depth images of a cloud from six sides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers.normalization import keep_norms_in_eval_
from i2p_zoo.names import split_name
from i2p_zoo.networks.depth_images import SIDES, draw_sides
from i2p_zoo.networks.side_views import SideViews
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.zoo.conversion import load_image_network

VIEW_VOXEL = 0.02
"""Edge of a voxel whose points are drawn as one, in the unit sphere's radius."""


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
        pictures = draw_sides(x, self.size, self.splat, self.mean, self.std)
        features: Tensor = self.network.forward_head(self.network.forward_features(pictures), pre_logits=True)
        logits: Tensor = self.get_classifier()(features.unflatten(0, (x.batch_size, SIDES)).mean(1))
        return logits


class ViewPyramid(nn.Module):
    """A linear classifier of what `SideViews` reads: every feature map of a 2D network on each of six sides.

    It is what `PyramidClassifier` with views has beside the inflated network, on its own, and takes what a `PointCloudModel`
    takes.

    Args:
        views: of the cloud.
        num_classes: of the classifier, which is new.
        voxel_size: points of one voxel are one point, their mean.

    Example:
        >>> import numpy as np, timm
        >>> views = SideViews(timm.create_model("test_resnet", features_only=True), 64)
        >>> ViewPyramid(views, 4, voxel_size=0.1).eval()([np.random.rand(100, 3)]).shape
        torch.Size([1, 4])
    """

    def __init__(self, views: SideViews, num_classes: int, voxel_size: float) -> None:
        super().__init__()
        self.views, self.num_classes = views, num_classes
        self.settings = Settings(voxel_size=voxel_size)
        self.frozen_norms = False
        self.pretrained_cfg = dict(getattr(views.network, "pretrained_cfg", None) or {})
        self.head = nn.Linear(SIDES * views.channels, num_classes)

    def get_classifier(self) -> nn.Module:
        """Returns the linear layer."""
        return self.head

    def train(self, mode: bool = True) -> ViewPyramid:
        """Sets training mode; views of which nothing trains stay in eval, on the statistics of images."""
        super().train(mode)
        if self.frozen_norms or not any(parameter.requires_grad for parameter in self.views.parameters()):
            self.views.eval()
        return self

    def forward(self, clouds: Any) -> Tensor:
        """Returns (B, K) logits of clouds, as points or as voxels that carry their coordinates."""
        x = clouds if isinstance(clouds, SparseTensor) else self.settings.voxelize(clouds)[0]
        logits: Tensor = self.head(self.views(x))
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
