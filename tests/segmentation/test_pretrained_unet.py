"""create_unet: image weights, and the paper's own network for scenes."""

from __future__ import annotations

import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.segmentation.pretrained_unet import create_unet


def test_image_weights_are_the_encoders(tmp_path):
    model = i2p_zoo.create_model("test_resnet")
    model.save_pretrained(tmp_path)
    unet = create_unet(str(tmp_path), 3, skip_downsamples=2)
    assert torch.equal(unet.encoder.layer2[0].conv2.weight, model.layer2[0].conv2.weight)


def test_names_of_the_classes_are_the_unets_and_not_its_encoders(tmp_path):
    encoder = i2p_zoo.create_model("test_resnet", num_classes=2)
    encoder.pretrained_cfg = {**encoder.pretrained_cfg, "label_names": ["chair", "table"]}
    unet = create_unet(str(encoder.save_pretrained(tmp_path / "encoder")), 3)
    assert "label_names" not in i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path / "unnamed")).pretrained_cfg
    unet.pretrained_cfg["label_names"] = ["floor", "wall", "lamp"]
    again = i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path / "unet"))
    assert list(again.pretrained_cfg["label_names"]) == ["floor", "wall", "lamp"]


def test_defaults_are_the_papers():
    unet = create_unet("i2p-resnet18", 13, pretrained=False, preset="image2point", in_chans=6, features="xyz,rgb")
    assert [(level.channels, level.stride) for level in unet.levels] == [
        (64, (1, 1, 1)), (64, (2, 2, 2)), (128, (4, 4, 4)), (256, (8, 8, 8)), (512, (16, 16, 16)),
    ]  # fmt: skip
    assert [up.weight.shape[0] for up in unet.decoder.up] == [512, 256, 192, 192]
    assert unet.dropout == 0.3


def test_image_weights_save_and_load(tmp_path):
    base = i2p_zoo.create_model("resnet18", "copy").save_pretrained(tmp_path / "base")
    unet = create_unet(str(base), 3, preset="image2point", decoder_channels=(8,))
    image = i2p_zoo.from_pretrained(base)
    assert torch.equal(unet.encoder.layer1[0].conv1.weight, image.layer1[0].conv1.weight)
    for tap in unet.encoder.layer2[0].downsample[0].weight.flatten(1, 3).unbind(1):
        assert torch.equal(tap, image.layer2[0].downsample[0].weight[:, 0, 0, 0])
    again = i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path / "unet"))
    assert repr(again) == repr(unet)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in unet.state_dict().items())


def test_other_networks_are_refused():
    with pytest.raises(UnsupportedError, match="resnet18"):
        create_unet("test_resnet", 3, pretrained=False, preset="image2point")
    with pytest.raises(InvalidInputError, match="preset"):
        create_unet("resnet18", 3, pretrained=False, preset="pointnet")
