"""A classifier for few labels: it reads every feature map of an encoder by the octants of the cloud's box, and six views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.checkpoints.config import FORMAT_VERSION, make_config
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.modules import eval_mode, set_class_names_
from i2p_zoo.networks.changes import apply_changes_, note_changes
from i2p_zoo.networks.depth_images import SIDES
from i2p_zoo.networks.network import EncoderNetwork
from i2p_zoo.networks.point_cloud_model import PointCloudModel
from i2p_zoo.networks.side_views import SideViews, build_side_views
from i2p_zoo.networks.stems import check_num_classes
from i2p_zoo.networks.unet import find_levels
from i2p_zoo.sparse.autograd_limits import run_uncompiled
from i2p_zoo.sparse.octants import OCTANTS, pool_octants
from i2p_zoo.sparse.tensor import SparseTensor


class PyramidClassifier(EncoderNetwork):
    """An encoder of the zoo and a linear classifier of all its feature maps, each averaged over eight octants.

    What timm's own classifier reads, the mean of the last feature map, tells neither where things stand nor what the earlier
    stages see, and one or a few clouds of each class do not suffice to train the rest to it. Each map becomes (B, 8 * C) means
    of the octants of the cloud's box (`pool_octants`) of length 1; the classifier reads them all, one after the other. (All
    stages at once: Evci et al. 2022, "Head2Toe".) With views it reads, too, what the image network makes of six depth images of
    the cloud: the means of its maps, of length 1 each. Clouds are to stand as those that it was trained on: octants and views
    turn with them.

    Args:
        encoder: a `PointCloudModel` created with `features_only=True`.
        num_classes: of the classifier, which is new.
        channels: of all feature maps of the encoder together; None to find them by running it.
        views: what the image network sees of the voxels from six sides, or None.

    Raises:
        InvalidInputError: another encoder, or no class.
        UnsupportedError: the encoder shifts the sites.
    """

    def __init__(self, encoder: Any, num_classes: int, channels: int | None = None, views: SideViews | None = None) -> None:
        super().__init__(encoder)
        self.channels = sum(level.channels for level in find_levels(encoder)) if channels is None else channels
        self.views = views
        self.reset_classifier(num_classes)

    def train(self, mode: bool = True) -> PyramidClassifier:
        """Sets training mode; views of which nothing trains stay in eval, on the statistics of images."""
        super().train(mode)
        if self.views is not None and not any(parameter.requires_grad for parameter in self.views.parameters()):
            self.views.eval()
        return self

    def prepare(self, x: Any) -> SparseTensor:
        """Returns the network's input as a sparse tensor, as the encoder's `prepare`."""
        prepared: SparseTensor = self.encoder.prepare(x)
        return prepared

    @run_uncompiled
    def forward(self, x: Any) -> Tensor:
        """Classifies clouds.

        Args:
            x: as the encoder's `prepare` takes it.

        Returns:
            (B, num_classes) logits.
        """
        voxels = self.prepare(x)
        maps = self.encoder(voxels)
        rows = [F.normalize(pool_octants(each.derive(each.features, channels_last=False)), dim=1) for each in maps]
        if self.views is not None:
            rows.append(self.views(voxels))
        logits: Tensor = self.head(torch.cat(rows, dim=1))
        return logits

    def predict(self, points: Any) -> Tensor:
        """Returns `forward` of clouds in eval mode and without gradients."""
        with eval_mode(self), torch.no_grad():
            logits: Tensor = self(points)
        return logits

    def get_classifier(self) -> nn.Module:
        """Returns the linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Gives the network a new classifier; the names of the classes go with the old one.

        Raises:
            InvalidInputError: `num_classes` is no whole number of 1 or more.
        """
        check_num_classes(num_classes)
        if not num_classes:
            raise InvalidInputError("A pyramid classifier needs num_classes of 1 or more; got 0.")
        width = OCTANTS * self.channels + (0 if self.views is None else SIDES * self.views.channels)
        self.head = nn.Linear(width, num_classes).to(next(self.encoder.parameters()))
        self.num_classes = num_classes
        set_class_names_(self, ())

    def to_config(self) -> dict[str, Any]:
        """Returns the network's config, as JSON types, without what is known of a checkpoint's files.

        Raises:
            InvalidInputError: the encoder was not made from a timm architecture, or has an argument that JSON cannot hold.
        """
        config = make_config(self)
        config["i2p"] |= {
            "format_version": FORMAT_VERSION,
            "pyramid": {"channels": self.channels, "views": None if self.views is None else self.views.size},
        }
        return note_changes(self, config, "head")

    @staticmethod
    def from_config(config: dict[str, Any]) -> PyramidClassifier:
        """Undoes `to_config`, without weights: they are on the meta device.

        Raises:
            NotFoundError: timm has no such architecture.
        """
        plain = {**config, "i2p": {key: value for key, value in config["i2p"].items() if key != "changes"}}
        encoder, pyramid = PointCloudModel.from_config(plain), config["i2p"]["pyramid"]
        size = pyramid.get("views")
        views = None if size is None else build_side_views(encoder, size, structure=True)
        with torch.device("meta"):
            network = PyramidClassifier(encoder, config["num_classes"], pyramid["channels"], views)
        result: PyramidClassifier = apply_changes_(network, config["i2p"].get("changes", {}))
        return result
