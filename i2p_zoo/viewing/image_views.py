"""What there is to see of an image: as voxels on a plane, and what a 2D network and its inflated one take it for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.photographs import preprocess, top_classes
from i2p_zoo.names import PREFIX, split_name
from i2p_zoo.viewing.cloud_views import CloudView, VoxelLevel
from i2p_zoo.zoo.certificate import TOLERANCES
from i2p_zoo.zoo.conversion import load_image_network
from i2p_zoo.zoo.measurement import outputs_of, relative_error
from i2p_zoo.zoo.pretrained import from_pretrained

IMAGE_NETWORK = "i2p-tf_efficientnet_lite0"
"""Whose weights the extra "demo" brings."""
_STRIDES = (4, 8, 16, 32)  # of pixels; those of stride 1 are more than a browser draws as cubes
_CLASSES = 1000  # ImageNet-1k's, which have names


@dataclass(frozen=True)
class ImageNetworks:
    """A 2D network of timm and the same network inflated.

    Attributes:
        name: of timm's architecture.
        flat: the 2D network, in eval mode.
        solid: the 3D network, inflated by "center".
    """

    name: str
    flat: nn.Module
    solid: Any


@dataclass(frozen=True)
class ImageView:
    """What is shown of an image.

    Attributes:
        plane: its pixels as voxels in space.
        flat, solid: the likeliest classes of the 2D and of the 3D network with their probabilities.
        error: of the 3D network's outputs, the largest difference relative to the largest output, as in a certificate.
    """

    plane: CloudView
    flat: Mapping[str, float]
    solid: Mapping[str, float]
    error: float

    def summary(self) -> str:
        """Returns in one line how far apart the two networks are."""
        limit = TOLERANCES["float32"]
        verdict = "holds" if self.error <= limit else "does NOT hold"
        return f"The outputs differ by at most {self.error:.1e} of the largest; the certificate, of {limit:g}, {verdict}."


def load_image_networks(name: str = IMAGE_NETWORK) -> ImageNetworks:
    """Loads timm's network of a zoo name, and the inflated one.

    Raises:
        InvalidInputError: the network does not name ImageNet's 1,000 classes.
        I2PError: as `i2p_zoo.from_pretrained`.
    """
    architecture, _ = split_name(name)
    flat, _ = load_image_network(name)
    count = getattr(flat, "num_classes", None)
    if count != _CLASSES:
        raise InvalidInputError(f"{name} has {count} classes; images are shown with ImageNet's {_CLASSES:,}.")
    return ImageNetworks(architecture, flat, from_pretrained(PREFIX + name.removeprefix(PREFIX)))


def view_image(image: Any, networks: ImageNetworks, top: int = 5) -> ImageView:
    """Lets a 2D network and its inflated one name an image, and measures how far apart their outputs are.

    Args:
        image: a PIL image.
        networks: as `load_image_networks` returns them.
        top: how many classes are told.
    """
    batch = preprocess([image.convert("RGB")], networks.flat)
    (flat,) = outputs_of(networks.flat, batch, None)
    (solid,) = outputs_of(networks.solid, batch, networks.solid.settings.axis)
    flat_classes, solid_classes = (dict(top_classes(logits.cpu(), top)[0]) for logits in (flat, solid))
    plane = _view_plane(_pixels_of(batch, networks.flat))
    return ImageView(plane, flat_classes, solid_classes, relative_error([flat], [solid]))


def _pixels_of(batch: Tensor, network: Any) -> Tensor:
    """Undoes timm's normalisation: (3, H, W) in 0 to 1."""
    cfg = getattr(network, "pretrained_cfg", None) or {}
    mean, std = (batch.new_tensor(cfg.get(key, default)) for key, default in (("mean", (0.5,) * 3), ("std", (0.5,) * 3)))
    return (batch[0] * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def _view_plane(pixels: Tensor) -> CloudView:
    """Returns an image that stands upright in space, a voxel a pixel, and its voxels at the strides of image networks."""
    points, colors, _ = _plane(pixels)
    levels = []
    for stride in _STRIDES:
        if min(pixels.shape[1:]) >= stride:
            _, means, sites = _plane(F.avg_pool2d(pixels[None], stride)[0])
            levels.append(VoxelLevel((stride, 1, stride), sites, np.array([stride, 1.0, stride]), np.zeros(3), means))
    return CloudView("image", points, colors, tuple(levels))


def _plane(pixels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the pixels of (3, H, W) as points and colours, and the sites of their voxels; the top is up."""
    _, height, width = pixels.shape
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
    sites = np.stack([columns, np.zeros_like(rows), height - 1 - rows], axis=1)
    colors = np.rint(255 * pixels.permute(1, 2, 0).reshape(-1, 3).numpy()).astype(np.uint8)
    return sites.astype(np.float32) + 0.5, colors, sites.astype(np.int64)
