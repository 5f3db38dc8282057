"""Segmentation: classes of points."""

from i2p_zoo.networks.unet import UNet as UNet
from i2p_zoo.segmentation.pretrained_unet import create_unet as create_unet
from i2p_zoo.segmentation.task import Segmentation as Segmentation
from i2p_zoo.segmentation.task import score as score
from i2p_zoo.segmentation.voting import segment as segment
