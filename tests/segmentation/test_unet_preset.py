"""The paper's own network for scenes, layer by layer against dense float64 convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.finetune import freeze
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.helpers import randomise_norms_, relative_error
from tests.networks.test_presets import Dense, cloud


def make(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = create_unet("resnet18", 3, pretrained=False, preset="image2point", decoder_channels=(24, 16, 12, 8), **kwargs)
    return randomise_norms_(unet).double().eval()


class DenseUNet(Dense):
    """The network of PAPER.md's last lines on the original, on a grid whose empty voxels are masked after each layer."""

    def layer(self, grid, mask, convolution, norm, stride=1):
        grid, mask = self.convolve(grid, mask, convolution, stride)
        return self.normalise(grid, mask, norm).relu(), mask

    def raise_to(self, coarse, mask, step):
        weight = self.state[f"decoder.up.{step}.weight"].permute(4, 0, 1, 2, 3)
        fine = F.conv_transpose3d(coarse, weight, stride=2)
        fine = fine[..., : mask.shape[1], : mask.shape[2], : mask.shape[3]] * mask[:, None]
        return self.normalise(fine, mask, f"decoder.norms.{step}.0").relu()

    def residual(self, grid, mask, name):
        out, _ = self.layer(grid, mask, f"{name}.conv1", f"{name}.bn1")
        out, _ = self.convolve(out, mask, f"{name}.conv2", 1)
        out = self.normalise(out, mask, f"{name}.bn2")
        if f"{name}.shortcut.0.weight" in self.state:
            grid, _ = self.convolve(grid, mask, f"{name}.shortcut.0", 1)
            grid = self.normalise(grid, mask, f"{name}.shortcut.1")
        return (out + grid).relu()

    def run(self):
        skips = [
            self.layer(*self.layer(self.grid, self.mask, "encoder.conv1", "encoder.bn1"), "encoder.act1.1", "encoder.act1.2")
        ]
        grid, mask = self.layer(*skips[0], "encoder.maxpool.0", "encoder.maxpool.1", stride=2)
        for stage in (1, 2, 3, 4):
            for number in (0, 1):
                grid, mask = self.block(grid, mask, f"encoder.layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1)
            skips.append((grid, mask))
        for step, (skip, mask) in enumerate(skips[-2::-1]):
            grid = torch.cat([self.raise_to(grid, mask, step), skip], 1)
            for number in (0, 1):
                grid = self.residual(grid, mask, f"decoder.blocks.{step}.{number}")
        return grid


def test_network_is_the_papers():
    unet, x = make(), cloud()
    dense = DenseUNet(unet.state_dict(), x)
    grid = dense.run()
    with torch.no_grad():
        logits = unet(x)
    b, z, y, x_ = logits.coords.long().unbind(1)
    state = unet.state_dict()
    expected = grid[b, :, z, y, x_] @ state["decoder.head.weight"].t() + state["decoder.head.bias"]
    assert torch.equal(logits.coords, x.coords)
    assert relative_error(logits.features, expected) < 1e-12


def test_defaults_are_the_papers():
    unet = create_unet("i2p-resnet18", 13, pretrained=False, preset="image2point", in_chans=6, features="xyz,rgb")
    assert [(level.channels, level.stride) for level in unet.levels] == [
        (64, (1, 1, 1)), (64, (2, 2, 2)), (128, (4, 4, 4)), (256, (8, 8, 8)), (512, (16, 16, 16)),
    ]  # fmt: skip
    assert [up.weight.shape[0] for up in unet.decoder.up] == [512, 256, 192, 192]
    assert unet.dropout == 0.3


def test_dropout_is_used_before_the_first_and_the_third_step():
    unet, x = make(dropout=0.5), cloud()
    seen = {}
    for step, up in enumerate(unet.decoder.up):
        up.register_forward_pre_hook(
            lambda _, inputs, step=step: seen.update({step: (inputs[0].features == 0).double().mean()})
        )
    unet.decoder.dropout.train()
    with torch.no_grad():
        unet(x)
    zero = {step: float(share) for step, share in seen.items()}
    unet.eval()
    with torch.no_grad():
        unet(x)
    for step in range(4):
        gained = zero[step] - float(seen[step])
        assert gained > 0.1 if step in (0, 2) else abs(gained) < 0.1


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


@pytest.mark.parametrize("mode", ["io", "io+bn", "all"])
def test_each_mode_trains_all_that_is_new(mode):
    unet = make().float()
    freeze(unet, mode)
    trained = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    new = {"encoder.conv1.weight", "encoder.act1.1.weight", "encoder.maxpool.0.weight", "decoder.up.0.weight"}
    assert new <= trained
    assert ("encoder.layer1.0.conv1.weight" in trained) is (mode == "all")
    unet.train()
    unet([np.random.default_rng(0).random((200, 3)).astype(np.float32)]).sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("mode", ["io", "head", "none"])
def test_norms_that_have_no_images_statistics_learn_the_clouds(mode):
    unet = make()
    freeze(unet, mode)
    unet.train()
    assert unet.encoder.act1[1].training
    assert unet.encoder.maxpool[1].training
    assert not unet.encoder.bn1.training


def test_other_networks_are_refused():
    with pytest.raises(UnsupportedError, match="resnet18"):
        create_unet("test_resnet", 3, pretrained=False, preset="image2point")
    with pytest.raises(InvalidInputError, match="preset"):
        create_unet("resnet18", 3, pretrained=False, preset="pointnet")
