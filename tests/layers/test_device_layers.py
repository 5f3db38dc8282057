"""Each kind of layer the device's way, in the dtypes that networks train in, against float64 by the CPU's kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BlurPool2d, GroupNorm1, LayerNorm2d
from torch import nn

import i2p_zoo
from i2p_zoo import SparseTensor
from i2p_zoo.sparse.device_path import force_device_path
from tests.helpers import random_cloud, randomise_norms_, relative_error, seeded
from tests.triton_tools import interpret_spconv_triton

LAYERS = {
    "dense": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "dense, strided": lambda: nn.Conv2d(6, 5, 3, 2, 1),
    "one tap": lambda: nn.Conv2d(6, 5, 1, 2),
    "two groups": lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depthwise, multiplied": lambda: nn.Conv2d(6, 12, 3, 2, 1, groups=6),
    "transposed": lambda: nn.Sequential(nn.Conv2d(6, 4, 2, 2), nn.ConvTranspose2d(4, 5, 2, 2)),
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "blur": lambda: BlurPool2d(6),
    "batch norm": lambda: nn.BatchNorm2d(6),
    "group norm": lambda: nn.GroupNorm(3, 6),
    "group norm of one": lambda: GroupNorm1(6),
    "layer norm": lambda: LayerNorm2d(6),
    "activation": lambda: nn.PReLU(6),
    "global average": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    "global maximum": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
}
TOLERANCES = {torch.float64: 1e-12, torch.float16: 6e-3, torch.bfloat16: 4e-2}


def run(model, features, coords):
    """The output and the gradients of the features and of all weights."""
    leaf = features.clone().requires_grad_()
    out = model(SparseTensor(leaf, coords, batch_size=2))
    values = out.features if isinstance(out, SparseTensor) else out
    upstream = torch.randn(values.shape, generator=seeded(1)).to(values.dtype)
    gradients = torch.autograd.grad(values, [leaf, *model.parameters()], upstream)
    return [values, *gradients]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_on_a_device_what_it_does_in_float64(name, dtype, monkeypatch):
    torch.manual_seed(0)
    model = randomise_norms_(i2p_zoo.inflate(nn.Sequential(LAYERS[name]()), inflation="copy").eval()).to(dtype)
    x = random_cloud(6, voxels=50, extent=5, dtype=torch.float32)
    features = x.features.to(dtype)
    expected = run(copy.deepcopy(model).double(), features.double(), x.coords)
    interpret_spconv_triton(monkeypatch)
    monkeypatch.setattr("i2p_zoo.sparse.kernels.depthwise_triton._SPLITS", 1)  # fewer programs to interpret
    with force_device_path():
        values = run(model, features, x.coords)
    for value, truth in zip(values, expected, strict=True):
        assert value.dtype == dtype
        assert relative_error(value, truth) < TOLERANCES[dtype]
