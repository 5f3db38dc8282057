"""Whole networks the device's way: what the CPU's gives, forward and back, and no sum whose order differs from run to run."""

from __future__ import annotations

import pytest
import torch

import i2p_zoo
from i2p_zoo import SparseTensor
from i2p_zoo.networks.timm_models import randomize_constants_
from i2p_zoo.segmentation.losses import segmentation_loss
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.sparse import device_path
from i2p_zoo.sparse.device_path import force_device_path
from tests.atomic_sums import AtomicSums
from tests.helpers import seeded

DENSE = {"stem": "point", "skip_downsamples": 2}
SWIN = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2}
NETWORKS = {
    "residual": ("resnet18", DENSE),
    "depthwise": ("tf_efficientnet_lite0", DENSE),
    "blocks of ConvNeXt": ("convnext_atto", DENSE),
    "global response": ("test_convnext2", DENSE),
    "group norm": ("test_efficientnet_gn", DENSE),
    "blurred strides": ("resnetaa34d", DENSE),
    "context of all voxels": ("gcresnext26ts", DENSE),
    "several experts": ("tf_efficientnet_cc_b0_4e", DENSE),
    "bilinear attention": ("bat_resnext26ts", DENSE),
    "space to depth": ("tresnet_m", {}),
    "up-sampled branches": ("hrnet_w18_small", DENSE),
    "tokens": ("test_vit", {}),
    "tokens of a point stem": ("vit_tiny_patch16_224", {"stem": "point", "depth": 2}),
    "relative positions": ("test_vit_relpos", {}),
    "rotations": ("vit_tiny_patch16_dinov3_qkvb", {**SMALL, "img_size": 64, "patch_size": 8}),
    "decomposed positions": ("samvit_base_patch16", {**SMALL, "img_size": 128}),
    "windows that shift": ("swin_tiny_patch4_window7_224", SWIN),
    "windows and grids": ("test_maxvit", {}),
    "convolutions and attention": ("test_coatnet", {}),
    "unfolded patches": ("mobilevit_xxs", {}),
    "one window's queries for all": ("gcvit_xxtiny", {"embed_dim": 16}),
    "windows with halos": ("halonet26t", {}),
    "outlooks": ("volo_d1_224", {}),
    "mixed places": ("mixer_s32_224", {"img_size": 64}),
    "along rows and columns": ("sequencer2d_s", {"layers": (1,) * 4, "embed_dims": (16, 32, 32, 32), "hidden_sizes": (8,) * 4}),
    "channels that attend": ("xcit_nano_12_p16_224", {"embed_dim": 32, "depth": 2, "num_heads": 2}),
    "reduced keys": ("pvt_v2_b0", {}),
    "parts of tokens": ("crossvit_tiny_240", {}),
}  # fmt: skip
UNETS = {"trilinear": "test_resnet", "nearest": "swin_tiny_patch4_window7_224"}


def clouds() -> SparseTensor:
    """Of unlike numbers of voxels: many, none, one, and some; in no order."""
    random = seeded(0)
    rows = [torch.tensor([[2, 3, 40, 7]])]
    for sample, voxels, extent in ((0, 220, 48), (3, 90, 20)):
        places = torch.rand((voxels, 3), generator=random) * torch.tensor([extent / 4, extent, extent])
        rows.append(torch.cat([torch.full((voxels, 1), sample), places.long()], 1))
    coords = torch.cat(rows).unique(dim=0)
    coords = coords[torch.randperm(len(coords), generator=random)].int()
    return SparseTensor(torch.randn((len(coords), 3), generator=random, dtype=torch.float64), coords, batch_size=4)


def make(name, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shake_(i2p_zoo.create_model(name, num_classes=3, voxel_size=1.0, inflation="average", **kwargs))


def shake_(model):
    """Draws what timm starts at constants, and every weight anew around what it was: repeated ones have voxels that tie."""
    randomize_constants_(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return model.double().train()


def make_unet(devoxelization):
    name = UNETS[devoxelization]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"skip_downsamples": 2} if name == "test_resnet" else SWIN
        return shake_(create_unet(name, 4, pretrained=False, voxel_size=0.2, devoxelization=devoxelization, **options))


def points_of_clouds():
    return [torch.rand((count, 3), generator=seeded(count), dtype=torch.float64) * 2 - 1 for count in (150, 1, 60)]


def step(model, make_input):
    """The output of a network in training, and its gradients of all parameters that have one."""
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = model(make_input())
    out = out.features if isinstance(out, SparseTensor) else out
    upstream = torch.randn(out.shape, generator=seeded(1), dtype=out.dtype)
    (out * upstream).sum().backward()
    return {"output": out.detach(), **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}


def check_both_ways(model, make_input, monkeypatch):
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    expected = step(model, make_input)
    model.load_state_dict({**model.state_dict(), **{name: b for name, b in statistics.items() if name in model.state_dict()}})
    monkeypatch.setattr(
        device_path, "has_triton", lambda: False
    )  # layers are tried with its kernels, which interpreted are slow
    with force_device_path(), AtomicSums() as sums:
        found = step(model, make_input)
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for name, gradient in expected.items() if name != "output")
    for name, value in found.items():
        unit = expected[name].abs().max() if name == "output" else scale
        assert float((value - expected[name]).abs().max() / unit) < 1e-10, name
    assert not sums.names


@pytest.mark.parametrize(("name", "options"), NETWORKS.values(), ids=NETWORKS)
def test_network_gives_the_same_on_both_ways_and_adds_up_in_a_fixed_order(name, options, monkeypatch):
    check_both_ways(make(name, **options), clouds, monkeypatch)


@pytest.mark.parametrize("devoxelization", UNETS)
def test_unet_gives_the_same_for_points_on_both_ways_and_adds_up_in_a_fixed_order(devoxelization, monkeypatch):
    check_both_ways(make_unet(devoxelization), points_of_clouds, monkeypatch)


def test_loss_of_segmentation_adds_up_in_a_fixed_order():
    logits = torch.randn((50, 4), generator=seeded(0), dtype=torch.float64, requires_grad=True)
    with force_device_path(), AtomicSums() as sums:
        segmentation_loss(logits, torch.arange(50) % 4, "both").backward()
    assert not sums.names
