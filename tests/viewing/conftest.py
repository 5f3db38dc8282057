"""Networks to look at clouds with, and whether the libraries that draw are there."""

from __future__ import annotations

import pytest

import i2p_zoo
from i2p_zoo.modules import set_class_names_
from i2p_zoo.segmentation import create_unet


@pytest.fixture(scope="session")
def classifier():
    """Of three classes, one of which has a name that is markup; not to be changed."""
    model = i2p_zoo.create_model("test_resnet", num_classes=3, stem="point", voxel_size=0.1).eval()
    set_class_names_(model, ("chair", "<b>table</b>", "sofa"))
    return model


@pytest.fixture(scope="session")
def unet():
    """Of two classes of points; not to be changed."""
    model = create_unet("test_resnet", num_classes=2, pretrained=False, stem="point", voxel_size=0.25).eval()
    set_class_names_(model, ("ground", "tree"))
    return model
