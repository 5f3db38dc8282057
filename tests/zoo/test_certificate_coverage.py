"""What a certificate saw: any tensor that is not its 2D source's fails it, also where the outputs do not depend on it."""

from __future__ import annotations

import functools
import json
import re

import pytest
import timm
import torch
from timm.layers import (
    BatchNormAct2d,
    BlurPool2d,
    CondConv2d,
    EcaModule,
    EvoNorm2dS0,
    FilterResponseNormTlu2d,
    GlobalContext,
    LayerNorm2d,
    ScaledStdConv2d,
    SpaceToDepth,
    StdConv2dSame,
    create_conv2d,
)
from timm.layers.non_local_attn import BilinearAttnTransform
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import InvalidInputError, certify, inflate
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import reinflate_
from i2p_zoo.networks.timm_models import example_images
from i2p_zoo.zoo import conversion
from i2p_zoo.zoo.measurement import live_copy
from i2p_zoo.zoo.sensitivity import measure_sensitivity
from tests.helpers import random_images, randomise_norms_, seeded
from tests.zoo.test_archetypes import CERTIFIED, sized


class Routed(nn.Module):
    """A CondConv2d whose experts are weighted by the pooled input, as timm's blocks do it."""

    def __init__(self) -> None:
        super().__init__()
        self.routing, self.conv = nn.Linear(8, 2), CondConv2d(8, 8, 3, num_experts=2, bias=True)

    def forward(self, x):
        return self.conv(x, self.routing(F.adaptive_avg_pool2d(x, 1).flatten(1)).sigmoid())


LEAVES = {
    "Conv2d": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "Conv2d of groups": lambda: nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=4),
    "Conv2dSame": lambda: create_conv2d(8, 8, 3, stride=2, padding="same"),
    "ScaledStdConv2d": lambda: ScaledStdConv2d(8, 8, 3, padding=1),
    "StdConv2dSame": lambda: StdConv2dSame(8, 8, 3),
    "CondConv2d": Routed,
    "BatchNorm2d": lambda: randomise_norms_(nn.BatchNorm2d(8)),
    "BatchNormAct2d": lambda: randomise_norms_(BatchNormAct2d(8)),
    "EvoNorm2dS0": lambda: EvoNorm2dS0(8, groups=2),
    "FilterResponseNormTlu2d": lambda: FilterResponseNormTlu2d(8),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "LayerNorm2d": lambda: LayerNorm2d(8),
    "BilinearAttnTransform": lambda: randomise_norms_(BilinearAttnTransform(8, 4, 2)),
    "GlobalContext": lambda: GlobalContext(8, rd_channels=4),
    "EcaModule": lambda: EcaModule(8),
    "BlurPool2d": lambda: BlurPool2d(8),
    "SpaceToDepth": lambda: nn.Sequential(SpaceToDepth(4), nn.Conv2d(128, 8, 1)),
}
IMAGES = random_images(1, 3, 16, 16).float()


def network(leaf: str) -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, padding=1), LEAVES[leaf](), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*parts).eval()


def overwrite_(tensor):
    """Puts noise in a tensor's place; a variance stays positive."""
    if tensor.is_floating_point():
        tensor.copy_(torch.rand(tensor.shape, generator=seeded(1)).to(tensor.dtype) + 0.1)
    else:
        tensor += 1


def check_each_tensor_matters(model, images, keys=None, dtypes=("float32",)):
    """Asserts that the certificate of a network holds, and none does with noise in one tensor's place, which is named."""
    net = inflate(model)
    assert certify(model, net, images, dtypes).passed
    for key, tensor in net.state_dict().items():
        if keys is not None and key not in keys:
            continue
        kept = tensor.clone()
        overwrite_(tensor)
        certificate = certify(model, net, images, dtypes)
        tensor.copy_(kept)
        assert not certificate.passed, key
        assert certificate.mismatched == (key,)
        assert key in str(certificate)
    assert certify(model, net, images, dtypes).passed


def kernels(model):
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d | CondConv2d)}


@pytest.mark.parametrize("dead", [False, True], ids=["", "of a classifier of zeros"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_any_tensor_overwritten_fails(leaf, dead):
    model = network(leaf)
    if dead:
        nn.init.zeros_(model[4].weight)
    check_each_tensor_matters(model, IMAGES)


SMALL = ["test_resnet", "test_efficientnet", "test_efficientnet_evos", "test_convnext"]


@pytest.mark.parametrize("name", SMALL)
def test_any_kernel_of_a_network_that_timm_just_made_overwritten_fails(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    check_each_tensor_matters(model, random_images(1, 3, 32, 32).float(), kernels(model))


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))  # since ghostnetv3_050 has 309 kernels, each of which is certified in turn
@pytest.mark.parametrize("name", [name for name in CERTIFIED if not sized(name).marks])
def test_any_kernel_of_each_archetype_overwritten_fails(name, part):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    size = timm.get_pretrained_cfg(name).input_size[-1] if name.startswith("vgg") else 64
    check_each_tensor_matters(model, random_images(1, 3, size, size).float(), sorted(kernels(model))[part::3])


@functools.cache
def fresh_resnet18():
    """timm's resnet18 as it is made: the last normalisation of each block is zero, so its branch is switched off."""
    torch.manual_seed(0)
    return timm.create_model("resnet18").eval()


def is_block_kernel(key):
    return key.startswith("layer") and ".conv" in key


def test_kernels_of_branches_that_are_switched_off_are_named_and_fail():
    model, images = fresh_resnet18(), random_images(1, 3, 64, 64).float()
    net = inflate(model)
    whole = certify(model, net, images)
    assert whole.passed
    assert whole.mapped == len(net.state_dict())
    blocks = [key for key in net.state_dict() if is_block_kernel(key)]
    assert len(blocks) == 16
    assert set(blocks) <= set(whole.unseen)
    assert whole.live_errors["float64"] < 1e-12
    for key in blocks:
        overwrite_(net.state_dict()[key])
    certificate = certify(model, net, images)
    assert certificate.errors == whole.errors  # which alone would pass
    assert not certificate.passed
    assert certificate.mismatched == certificate.unproven == tuple(blocks)
    assert "FAILED" in str(certificate)
    assert f"{blocks[0]}, {blocks[1]}, {blocks[2]} and 13 more" in str(certificate)


@pytest.mark.parametrize("inflation", ["center", "copy"])
def test_noise_off_the_plane_which_no_image_meets_fails(inflation):
    model = network("Conv2d")
    net = inflate(model, inflation)
    with torch.no_grad():
        net[0].weight[:, 2] = torch.randn(net[0].weight[:, 2].shape, generator=seeded())
    certificate = certify(model, net, IMAGES)
    assert max(certificate.errors.values()) < 1e-6
    assert not certificate.unseen
    assert not certificate.passed
    assert certificate.unproven == ("0.weight",)


def test_structure_that_the_weights_hide_is_measured_with_live_ones():
    model, images = fresh_resnet18(), random_images(1, 3, 64, 64).float()
    net = inflate(model)
    net.layer2[1].act1 = nn.Identity()
    certificate = certify(model, net, images)
    assert max(certificate.errors.values()) < 1e-6
    assert not certificate.mismatched
    assert certificate.live_errors["float64"] > 1e-3
    assert not certificate.passed
    assert certificate.max_relative_error == certificate.live_errors["float64"]


def test_black_images_hide_the_stem_and_the_certificate_does_not():
    model, images = network("Conv2d"), torch.zeros(1, 3, 16, 16)
    net = inflate(model)
    certificate = certify(model, net, images)
    assert certificate.passed
    assert "0.weight" in certificate.unseen
    net[0].stride = (2, 2)
    assert not certify(model, net, images).passed
    net = inflate(model)
    overwrite_(net.state_dict()["0.weight"])
    assert certify(model, net, images).unproven == ("0.weight",)


def test_tensor_that_no_weights_show_is_named_and_known_by_its_bits_alone():
    model = network("GlobalContext")  # a bias before a softmax
    net = inflate(model)
    certificate = certify(model, net, IMAGES)
    assert certificate.passed
    assert certificate.unseen == certificate.unmeasured == ("1.conv_attn.bias",)
    assert "no weights measured show 1.conv_attn.bias" in str(certificate)
    overwrite_(net.state_dict()["1.conv_attn.bias"])
    assert certify(model, net, IMAGES).unproven == ("1.conv_attn.bias",)


def check_live_weights_show_all(name, weights, blind_to=r"(?!)"):
    """Asserts that live random weights show every tensor, whatever the network's own, but for those that nothing can show."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.0) if weights == "zeros" else parameter.mul_(0.01)
    sensitivity = measure_sensitivity(live := live_copy(model, noise := example_images(model)), noise)
    assert live(noise).isfinite().all()
    hidden = {key for key, moves in sensitivity.items() if not moves.norm() > 1e-8 and not re.fullmatch(blind_to, key)}
    attention = {key for key in hidden if key.endswith("conv_attn.bias")}  # before a softmax
    assert {key.rpartition(".")[0] for key in attention} >= {key.rpartition(".")[0] for key in hidden}, hidden


@pytest.mark.parametrize("weights", ["zeros", "small"])
@pytest.mark.parametrize("name", SMALL)
def test_live_weights_show_every_tensor(name, weights):
    check_live_weights_show_all(name, weights)


# Tensors that the live weights hide by chance: what a gate of few channels is made from, where none of them is active; a gate
# that is saturated almost everywhere; a bias that is subtracted again. A certificate names them, and knows them by their bits.
BLIND_TO = {
    "bat_resnext26ts": r"stages\.2\.0\.attn\.ba\.conv(1|_p|_q)\..*",
    "eca_nfnet_l0": r"stages\.3\.\d\.attn_last\.conv\.weight",
    "mnasnet_small": r"blocks\.3\.0\.se\..*",
    "poolformer_s12": r"stages\.\d\.blocks\.\d\.norm1\.bias",
}


@pytest.mark.long
@pytest.mark.parametrize("name", CERTIFIED)
def test_live_weights_show_every_tensor_of_each_archetype(name):
    check_live_weights_show_all(name, "zeros", BLIND_TO.get(name, r"(?!)"))


def test_live_weights_are_not_drawn_where_the_networks_own_are_live():
    model = network("BatchNorm2d")
    certificate = certify(model, inflate(model), IMAGES)
    assert (certificate.live_errors, certificate.unseen) == ({}, ())
    assert certificate.seen == certificate.mapped - 1  # num_batches_tracked is a whole number
    assert "all 9 tensors are their 2D sources' bit for bit; the outputs depend on all 8 of floating point" in str(certificate)


def test_tensor_that_differs_passes_where_the_outputs_depend_on_all_that_differs_and_agree():
    model = network("Conv2d")
    net = inflate(model, "average", depth=3)
    reinflate_(net, "center")  # the kernels come back rounded
    certificate = certify(model, net, IMAGES, dtypes=["float32"])
    assert certificate.passed
    assert set(certificate.mismatched) <= {"0.weight", "1.weight"}
    assert certificate.mismatched
    assert not certificate.unproven
    assert "but not 0.weight" in str(certificate)


def test_trained_network_fails_and_says_which_tensors_changed():
    model = network("BatchNorm2d")
    net = inflate(model)
    optimizer = torch.optim.SGD(net[4].parameters(), lr=0.1)
    net(i2p_zoo.image_to_plane(IMAGES)).square().sum().backward()
    optimizer.step()
    certificate = certify(model, net, IMAGES)
    assert not certificate.passed
    assert certificate.mismatched == ("4.weight", "4.bias")
    assert "7 of 9 tensors are their 2D sources' bit for bit, but not 4.weight, 4.bias" in str(certificate)


@pytest.mark.parametrize("where", ["2d", "3d"])
def test_tensor_that_only_one_network_has_fails(where):
    model = network("Conv2d")
    net = inflate(model)
    (net if where == "3d" else model).register_buffer("extra", torch.ones(2))
    certificate = certify(model, net, IMAGES)
    assert max(certificate.errors.values()) < 1e-6
    assert not certificate.passed
    assert certificate.unproven == ("extra",)
    assert certificate.mapped == 6


def test_precision_of_a_copy_is_no_difference():
    model = network("BatchNorm2d")
    assert certify(model, inflate(model).double(), IMAGES).mapped == 9


def test_module_that_is_no_inflation_is_refused():
    with pytest.raises(InvalidInputError, match=r"from `i2p_zoo.inflate`.*got Sequential"):
        certify(network("Conv2d"), network("Conv2d"), IMAGES)


def test_networks_generators_and_modes_of_the_caller_are_left_alone():
    model = network("BatchNorm2d")
    nn.init.zeros_(model[4].weight)
    net = inflate(model)
    state = {key: tensor.clone() for m in (model, net) for key, tensor in m.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with torch.inference_mode():
        first = certify(model, net, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    assert certify(model, net, IMAGES) == first
    assert first.live_errors
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for m in (model, net) for p in m.parameters())
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict()


def test_conversion_checks_the_average_network_itself_and_not_its_twin_alone(monkeypatch):
    def spoiled(source, inflation, *args):
        net = inflate(source, inflation, *args)
        if inflation == "average":
            net.conv1[0].weight.data[0, 0] += 1
        return net

    monkeypatch.setattr(conversion, "inflate", spoiled)
    model = timm.create_model("test_resnet").eval()
    with pytest.raises(i2p_zoo.CertificateError, match=r"conv1\.0\.weight"):
        conversion.convert_network(model, {}, "test_resnet", {}, Settings("average"))


def test_module_that_no_image_tells_from_the_2d_networks_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = inflate(model)
    assert not certify(model, net, IMAGES).changed_modules
    net[1] = nn.ReLU6()
    certificate = certify(model, net, IMAGES)
    assert certificate.errors["float64"] < 1e-12  # no activation reaches 6
    assert certificate.changed_modules == ("1 is ReLU6(), not ReLU()",)
    assert "modules are not the 2D network's: 1 is ReLU6(), not ReLU()" in str(certificate)
