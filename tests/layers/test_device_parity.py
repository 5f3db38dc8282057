"""Every 2D leaf of the table, inflated, on both ways: values and all gradients, on clouds of unlike numbers of voxels."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BlurPool2d, SpaceToDepth
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropBlock2d
from timm.layers.evo_norm import EvoNorm2dS0, EvoNorm2dS0a
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.global_context import GlobalContext
from timm.layers.halo_attn import HaloAttn
from timm.layers.linear import Linear
from timm.layers.non_local_attn import BilinearAttnTransform
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.patch_dropout import PatchDropout, PatchDropoutWithIndices
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

from i2p_zoo import SparseTensor, TokenTensor, inflate
from i2p_zoo.layers import registry
from i2p_zoo.layers.inverse_convolution import InverseConv3d
from i2p_zoo.layers.point_stem import PointStemConv3d
from i2p_zoo.networks.canvas import put_on_canvas
from i2p_zoo.networks.timm_models import randomize_constants_
from i2p_zoo.sparse import device_path
from i2p_zoo.sparse.device_path import force_device_path
from tests.atomic_sums import AtomicSums
from tests.helpers import relative_error, seeded
from tests.triton_tools import interpret_spconv_triton, require_interpreter

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


class Shaped(nn.Module):
    """A leaf that takes another arrangement than an image."""

    def __init__(self, leaf, arrange):
        super().__init__()
        self.leaf, self.arrange = leaf, arrange

    def forward(self, x):
        out = self.leaf(self.arrange(x))
        return out[0] if isinstance(out, tuple) else out


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.routing = CondConv2d(6, 4, 3, padding=1, num_experts=3), nn.Linear(6, 3)

    def forward(self, x):
        return self.conv(x, self.routing(x.mean((2, 3))).sigmoid())


def sequence(x):
    return x.flatten(2).transpose(1, 2)


def rows(x):
    return x.permute(0, 2, 3, 1).flatten(0, 1)


LAYERS = {
    "dense": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "dense, strided": lambda: nn.Conv2d(6, 5, 3, 2, 1),
    "dense, dilated": lambda: nn.Conv2d(6, 5, 3, padding=2, dilation=2),
    "valid": lambda: nn.Conv2d(6, 5, 3),
    "one tap": lambda: nn.Conv2d(6, 5, 1, 2),
    "groups": lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depthwise, multiplied": lambda: nn.Conv2d(6, 12, 3, 2, 1, groups=6),
    "same": lambda: Conv2dSame(6, 5, 3, 2),
    "transposed": lambda: nn.Sequential(nn.Conv2d(6, 4, 2, 2), nn.ConvTranspose2d(4, 5, 2, 2)),
    "experts": Experts,
    "standardised": lambda: StdConv2d(6, 5, 3, padding=1),
    "standardised, same": lambda: StdConv2dSame(6, 5, 3, 2),
    "scaled": lambda: ScaledStdConv2d(6, 5, 3, padding=1),
    "scaled, same": lambda: ScaledStdConv2dSame(6, 5, 3, 2),
    "features": lambda: Shaped(nn.Conv3d(1, 4, (3, 3, 1), padding=(1, 1, 0)), lambda x: x.permute(0, 2, 3, 1).unsqueeze(1)),
    "blur": lambda: BlurPool2d(6),
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "up": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)),
    "space to depth": lambda: SpaceToDepth(),
    "batch norm": lambda: nn.BatchNorm2d(6),
    "batch norm and activation": lambda: BatchNormAct2d(6),
    "group norm": lambda: nn.GroupNorm(3, 6),
    "EvoNorm": lambda: EvoNorm2dS0(6, group_size=3),
    "EvoNorm of one": lambda: EvoNorm2dS0a(6, group_size=6),
    "response": lambda: FilterResponseNormTlu2d(6),
    "response and activation": lambda: FilterResponseNormAct2d(6),
    "context": lambda: GlobalContext(6),
    "bilinear attention": lambda: BilinearAttnTransform(6, block_size=2, groups=2),
    "dropped blocks": lambda: DropBlock2d(0.4, block_size=3),
    "dropped tokens": lambda: Shaped(PatchDropout(0.5), sequence),
    "dropped tokens and indices": lambda: Shaped(PatchDropoutWithIndices(0.5), sequence),
    "linear": lambda: Shaped(nn.Linear(6, 5), sequence),
    "timm's linear": lambda: Shaped(Linear(6, 5), sequence),
    "of sequences": lambda: Shaped(nn.Conv1d(6, 5, 1), lambda x: x.flatten(2)),
    "recurrent": lambda: Shaped(nn.LSTM(6, 3, batch_first=True, bidirectional=True), rows),
    "all places at once": lambda: BottleneckAttn(6, feat_size=(8, 8), num_heads=2, dim_head=4),
    "halos": lambda: HaloAttn(6, num_heads=2, dim_head=4, block_size=2, halo_size=1),
}  # fmt: skip


OF_PAIRS = {"all places at once", "halos"}  # of which there are too many for Triton's interpreter


def clouds(dtype, bordered):
    """Many voxels, none, one, and some; in no order."""
    random, rows = seeded(0), [torch.tensor([[2, 1, 3, 6]])]
    for sample, voxels in ((0, 60), (3, 17)):
        places = (torch.rand((voxels, 3), generator=random) * torch.tensor([2, 8, 8])).long()
        rows.append(torch.cat([torch.full((voxels, 1), sample), places], 1))
    coords = torch.cat(rows).unique(dim=0)
    coords = coords[torch.randperm(len(coords), generator=random)].int()
    features = torch.randn((len(coords), 6), generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    x = SparseTensor(features, coords, batch_size=4, spatial_shape=(2, 8, 8) if bordered else None)
    return features, x if bordered else put_on_canvas(x, (8, 8))


def make(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(LAYERS[name]())
        randomize_constants_(model)
        return inflate(model, inflation="copy", canvas=(8, 8)).train()


def run(model, dtype, bordered):
    features, x = clouds(dtype, bordered)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = model[0](x)
    values = out.features if isinstance(out, SparseTensor) else out.values if isinstance(out, TokenTensor) else out
    upstream = torch.randn(values.shape, generator=seeded(1), dtype=torch.float64).to(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(values, [features, *parameters], upstream, allow_unused=True)
    return [values, *(gradient for gradient in gradients if gradient is not None)]


def check_both_ways(model, dtype, bordered, monkeypatch):
    require_interpreter()
    monkeypatch.setattr("i2p_zoo.sparse.kernels.depthwise_triton._SPLITS", 1)  # fewer programs to interpret
    expected = run(copy.deepcopy(model).to(dtype), dtype, bordered)
    if dtype != torch.float64:  # which spconv-triton has not
        interpret_spconv_triton(monkeypatch)
    with force_device_path(), AtomicSums() as sums:
        found = run(copy.deepcopy(model).to(dtype), dtype, bordered)
    assert len(found) == len(expected)
    for value, truth in zip(found, expected, strict=True):
        assert value.dtype == dtype
        assert relative_error(value, truth) < TOLERANCES[dtype]
    assert not sums.names


@pytest.mark.parametrize(
    ("dtype", "bordered"),
    [(torch.float64, True), (torch.float64, False), (torch.float32, False)],
    ids=["float64 with a border", "float64 on a canvas", "float32 on a canvas"],
)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_gives_on_a_device_what_it_does_on_the_cpu_and_adds_up_in_a_fixed_order(name, dtype, bordered, monkeypatch):
    if name in OF_PAIRS:
        monkeypatch.setattr(device_path, "has_triton", lambda: False)
    check_both_ways(make(name), dtype, bordered, monkeypatch)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_way_back_to_finer_sites_gives_on_a_device_what_it_does_on_the_cpu(dtype, monkeypatch):
    class Back(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(6, 4, 2, 2), InverseConv3d(4, 5, (2, 2, 2))

        def forward(self, x):
            return self.up(self.down(x), x)

    model = Back()
    model.down = inflate(nn.Sequential(model.down), inflation="copy")[0]
    check_both_ways(nn.Sequential(model), dtype, False, monkeypatch)


def test_every_leaf_of_the_table_is_tried():
    tried = {type(module) for make_layer in LAYERS.values() for module in nn.Sequential(make_layer()).modules()}
    of_others = {leaf for leaf in registry._builders if leaf.__module__.split(".")[0] in ("timm", "torch")}
    assert of_others <= tried, of_others - tried
    layers = {type(module) for name in LAYERS for module in make(name).modules()}
    ours = {leaf for leaf in registry._builders if leaf.__module__.startswith("i2p_zoo.")} - {PointStemConv3d}  # in networks
    assert ours <= layers, ours - layers
