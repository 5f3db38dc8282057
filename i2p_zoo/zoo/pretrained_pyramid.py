"""create_pyramid_classifier: a classifier of all stages of a network with image weights."""

from __future__ import annotations

from typing import Any

from i2p_zoo.networks.models import create_model
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.zoo.pretrained import from_pretrained


def create_pyramid_classifier(name: str, num_classes: int, *, pretrained: bool = True, **kwargs: Any) -> PyramidClassifier:
    """Creates a classifier that reads all feature maps of a network by octants, for few labelled clouds.

    Its classifier is new: `i2p_zoo.finetune.fit_ridge_` solves for it on the labelled clouds, from one of each class on.

    Args:
        name: of the encoder, as `i2p_zoo.from_pretrained` takes it; with its image stem, where nothing else is trained.
        num_classes: classes of a cloud.
        pretrained: image weights; False for the same network with random ones.
        **kwargs: as `i2p_zoo.from_pretrained` or, without image weights, `i2p_zoo.create_model`: `inflation`, `stem`,
            `skip_downsamples`, `voxel_size`, `out_indices`.

    Returns:
        The network.

    Raises:
        I2PError: as these two; InvalidInputError for no class; UnsupportedError for an encoder that shifts the sites.

    Example:
        >>> import torch
        >>> network = create_pyramid_classifier("test_resnet", num_classes=4, pretrained=False, skip_downsamples=2).eval()
        >>> network([torch.rand(50, 3), torch.rand(30, 3)]).shape
        torch.Size([2, 4])
    """
    create = from_pretrained if pretrained else create_model
    return PyramidClassifier(create(name, features_only=True, **kwargs), num_classes)
