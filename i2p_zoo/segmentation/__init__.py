"""Segmentation: classes of points."""

from i2p_zoo.networks.unet import UNet
from i2p_zoo.segmentation.crops import Cropping
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.segmentation.task import Segmentation, score
from i2p_zoo.segmentation.voting import segment

__all__ = ["Cropping", "Segmentation", "UNet", "create_unet", "score", "segment"]
