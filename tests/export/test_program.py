"""Programs of `torch.export`: equal to the network for clouds of sizes that the example did not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import UnsupportedError
from i2p_zoo.segmentation import create_unet
from tests.export.conftest import compute, hostile_clouds, live_norms_


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_a_program_gives_the_networks_logits(architecture, tmp_path):
    torch.manual_seed(0)
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=5)).eval()
    program, prepare = i2p_zoo.export_program(network)
    torch.export.save(program, tmp_path / "network.pt2")
    run = torch.export.load(tmp_path / "network.pt2").module()
    clouds = [cloud[:1500] for cloud in hostile_clouds(network.settings.voxel_size)]
    for batch in ([clouds[1]], [clouds[5]], clouds):
        with torch.no_grad():
            logits = run(*prepare([torch.from_numpy(cloud) for cloud in batch])).numpy()
        np.testing.assert_allclose(logits, compute(network, batch), rtol=0, atol=1e-4 * np.abs(logits).max())


def test_what_a_program_cannot_hold_says_so():
    with pytest.raises(UnsupportedError, match="only convolutional"):
        i2p_zoo.export_program(i2p_zoo.create_model("test_vit", num_classes=2))
    with pytest.raises(UnsupportedError, match="export_onnx"):
        i2p_zoo.export_program(create_unet("test_efficientnet", num_classes=5, pretrained=False))


def test_recording_by_users_is_refused_as_before():
    network = i2p_zoo.create_model("test_resnet", num_classes=2).eval()
    with pytest.raises(UnsupportedError, match="cannot record"):
        torch.export.export(network, (torch.rand(30, 3),))
