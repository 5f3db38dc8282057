"""Programs of `torch.export`: equal to the network for clouds of sizes that the example did not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.segmentation import create_unet
from tests.export.conftest import compute, hostile_clouds, live_norms_

LONG = pytest.mark.long


def export(architecture, **options):
    torch.manual_seed(0)
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=5, **options)).eval()
    return network, *i2p_zoo.export_program(network)


def run_on_hostile_clouds(network, run, prepare, *, together=False):
    clouds = [cloud[:1500] for cloud in hostile_clouds(network.settings.voxel_size)]
    for batch in [clouds] if together else [[cloud] for cloud in clouds]:
        with torch.no_grad():
            logits = run(*prepare([torch.from_numpy(cloud) for cloud in batch])).numpy()
        np.testing.assert_allclose(logits, compute(network, batch), rtol=0, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("architecture", ["test_efficientnet", pytest.param("test_resnet", marks=LONG)])
def test_a_program_gives_the_networks_logits_as_loaded_and_as_compiled(architecture, tmp_path):
    """Compiled once for all sizes but one: torch compiles anew where a level has a single voxel, and for a batch."""
    network, program, prepare = export(architecture)
    torch.export.save(program, tmp_path / "network.pt2")
    loaded = torch.export.load(tmp_path / "network.pt2").module()
    run_on_hostile_clouds(network, loaded, prepare)
    run_on_hostile_clouds(network, loaded, prepare, together=True)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(program.module(), backend=counter, dynamic=True)
    run_on_hostile_clouds(network, compiled, prepare)
    assert counter.frame_count <= 3  # two recompilations
    before = counter.frame_count
    run_on_hostile_clouds(network, compiled, prepare, together=True)
    assert counter.frame_count <= before + 1  # for more clouds than one


@LONG
def test_inductor_compiles_a_program():
    network, program, prepare = export("test_efficientnet")
    torch._dynamo.reset()
    run_on_hostile_clouds(network, torch.compile(program.module(), dynamic=True), prepare)


def test_what_a_program_cannot_hold_says_so():
    with pytest.raises(UnsupportedError, match="only convolutional"):
        i2p_zoo.export_program(i2p_zoo.create_model("test_vit", num_classes=2))
    with pytest.raises(InvalidInputError, match=r"made by i2p_zoo.*Linear"):
        i2p_zoo.export_program(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedError, match="export_onnx"):
        i2p_zoo.export_program(create_unet("test_efficientnet", num_classes=5, pretrained=False))


def test_recording_by_users_is_refused_as_before():
    network = i2p_zoo.create_model("test_resnet", num_classes=2).eval()
    with pytest.raises(UnsupportedError, match="cannot record"):
        torch.export.export(network, (torch.rand(30, 3),))
