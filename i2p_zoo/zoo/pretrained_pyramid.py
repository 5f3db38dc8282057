"""create_pyramid_classifier: a classifier of all stages of a network with image weights."""

from __future__ import annotations

from typing import Any

from i2p_zoo.networks.models import check_placement, create_model
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.networks.side_views import create_side_views
from i2p_zoo.zoo.pretrained import from_pretrained


def create_pyramid_classifier(
    name: str, num_classes: int, *, pretrained: bool = True, views: bool = False, **kwargs: Any
) -> PyramidClassifier:
    """Creates a classifier that reads all feature maps of a network by octants, for few labelled clouds.

    Its classifier is new: `i2p_zoo.finetune.fit_ridge_` solves for it on the labelled clouds, from one of each class on.

    Args:
        name: of the encoder, as `i2p_zoo.from_pretrained` takes it; with its image stem, where nothing else is trained.
        num_classes: classes of a cloud.
        pretrained: image weights; False for the same network with random ones.
        views: read, too, all feature maps of the image network on depth images of the cloud from six sides, each averaged over
            its pixels. The voxels are drawn, by their coordinates in the unit sphere, so that `features` must be "xyz" and the
            stem the image's. The image network's kernels come out of the inflated ones, all else is the encoder's as it is,
            and both are saved.
        **kwargs: as `i2p_zoo.from_pretrained` or, without image weights, `i2p_zoo.create_model`: `inflation`, `stem`,
            `skip_downsamples`, `voxel_size`, `out_indices`.

    Returns:
        The network.

    Raises:
        I2PError: as these two; InvalidInputError for no class, or views of an encoder that they cannot have;
            UnsupportedError for an encoder that shifts the sites, or views that are not square.

    Example:
        >>> import torch
        >>> network = create_pyramid_classifier("test_resnet", num_classes=4, pretrained=False, skip_downsamples=2).eval()
        >>> network([torch.rand(50, 3), torch.rand(30, 3)]).shape
        torch.Size([2, 4])
    """
    create = from_pretrained if pretrained else create_model
    place = {key: kwargs.pop(key) for key in ("device", "dtype") if key in kwargs}
    check_placement(place.get("device"), place.get("dtype"))
    encoder = create(name, features_only=True, **kwargs)
    network = PyramidClassifier(encoder, num_classes, views=create_side_views(encoder) if views else None)
    return network.to(**place)  # now: kernels that were rounded to half precision are no inflations any more
