"""The decoder: back on exactly the encoder's sites; the paper's, layer by layer against dense float64 convolutions."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.helpers import relative_error
from tests.networks.conftest import DenseNetwork, grid_cloud, make_papers_unet
from tests.zoo.test_archetypes import CERTIFIED, real_clouds


class DenseUNet(DenseNetwork):
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
    unet, x = make_papers_unet(), grid_cloud()
    dense = DenseUNet(unet.state_dict(), x)
    grid = dense.run()
    with torch.no_grad():
        logits = unet(x)
    b, z, y, x_ = logits.coords.long().unbind(1)
    state = unet.state_dict()
    expected = grid[b, :, z, y, x_] @ state["decoder.head.weight"].t() + state["decoder.head.bias"]
    assert torch.equal(logits.coords, x.coords)
    assert relative_error(logits.features, expected) < 1e-12


def test_dropout_is_used_before_the_first_and_the_third_step():
    unet, x = make_papers_unet(dropout=0.5), grid_cloud()
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


# Those whose convolutions without padding shift the sites, which `create_unet` refuses.
SHIFTED = {"inception_v3", "inception_v4", "inception_resnet_v2", "legacy_xception"}


NETWORKS = [
    "test_resnet",
    "mobilenetv3_small_050",
    "test_efficientnet",
    "repvgg_a0",
    "densenet121",
    "dla46_c",
    "convnext_atto",
    "test_mambaout",
]


def check_sites(name, stem):
    """Each step of the decoder stands on the very sites of the encoder's level, and the last on the input's."""
    unet = create_unet(name, 3, pretrained=False, stem=stem).eval()
    x = unet.encoder.prepare(real_clouds(3))
    seen = []
    for block in unet.decoder.blocks:
        block.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        maps = unet.encoder(x)
        logits = unet.decoder(x, maps)
    wanted = [maps[level.maps[0]] if level.maps else x for level in unet.decoder.levels[-2::-1]]
    assert len(seen) == len(wanted) >= 1
    for out, level in zip(seen, wanted, strict=True):
        assert torch.equal(out.coords, level.coords)
        assert torch.isfinite(out.features).all()
    assert torch.equal(logits.coords, x.coords)
    assert len(logits.features) == len(x.features)


@pytest.mark.parametrize("stem", ["image", "point"])
@pytest.mark.parametrize("name", NETWORKS)
def test_decoder_returns_to_exactly_the_encoders_sites(name, stem):
    check_sites(name, stem)


@pytest.mark.long
@pytest.mark.parametrize("name", CERTIFIED)
def test_decoder_of_every_archetype_returns_to_exactly_the_encoders_sites(name):
    try:
        timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, KeyError, TypeError, ValueError, AssertionError):  # whatever timm raises there
        with pytest.raises(InvalidInputError, match="features_only"):
            create_unet(name, 3, pretrained=False)
        return
    if name in SHIFTED:
        with pytest.raises(UnsupportedError, match="shift"):
            check_sites(name, "image")
    else:
        check_sites(name, "image")
