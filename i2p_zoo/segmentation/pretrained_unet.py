"""create_unet: a U-Net whose encoder has image weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2p_zoo.networks.models import create_model
from i2p_zoo.networks.unet import UNet
from i2p_zoo.zoo.pretrained import from_pretrained

PRESET_CHANNELS = (512, 256, 192, 192)
PRESET_DROPOUT = 0.3


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
        >>> import torch
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
