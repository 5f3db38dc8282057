"""A leaf and a function that no table has, as a newer timm may bring: each error says what to write, and that suffices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import SparseConv3d, UnsupportedError, certify, inflate, inflate_weight, replaces, sparse_op
from i2p_zoo.layers.registry import _builders
from i2p_zoo.sparse.dispatch import _handlers


class CosineConv2d(nn.Module):
    """A made-up leaf: a convolution whose kernels have length one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.filters = nn.Parameter(torch.randn(channels, channels, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, F.normalize(self.filters, dim=(1, 2, 3)), padding=1)


class Network(nn.Module):
    """A made-up network with that leaf and a function that sparse tensors do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.leaf = CosineConv2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.special.erfcx(self.leaf(self.stem(x)).abs())
        return self.head(x.mean(dim=(2, 3)))


class SparseCosineConv3d(nn.Module):
    """What a user writes for the leaf."""

    def __init__(self, leaf: CosineConv2d, axis: str, depth: int | None) -> None:
        super().__init__()
        self.axis = axis
        self.convolution = [SparseConv3d(leaf.channels, leaf.channels, 3, axis=axis, depth=depth, bias=False)]
        self.filters = nn.Parameter(torch.empty_like(self.convolution[0].weight, device="meta"))

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        return inflate_weight(source, inflation, self.axis, self.filters.shape[1]) if name == "filters" else None

    def forward(self, x):
        weight = F.normalize(self.filters, dim=(1, 2, 3, 4))
        return torch.func.functional_call(self.convolution[0], {"weight": weight}, x)


@pytest.fixture
def clean_tables():
    yield
    _builders.pop(CosineConv2d, None)
    _handlers.pop(torch.special.erfcx, None)


def test_each_error_names_what_is_missing_and_the_handler_to_write_until_the_network_is_certified(clean_tables):
    torch.manual_seed(0)
    model = Network().eval()
    with pytest.raises(UnsupportedError) as caught:
        certify(model, inflate(model), torch.randn(1, 3, 16, 16))
    message = str(caught.value)
    assert "`conv2d` by a dense weight of shape (8, 8, 3, 3)" in message
    assert "register one with `@i2p_zoo.replaces(type)`" in message

    @replaces(CosineConv2d)
    def build(leaf, axis, depth, inflation):
        return SparseCosineConv3d(leaf, axis, depth)

    net = inflate(model)
    with pytest.raises(UnsupportedError) as caught:
        certify(model, net, torch.randn(1, 3, 16, 16))
    message = str(caught.value)
    assert "erfcx` was called on a sparse tensor with (SparseTensor(1, 8, 8, 8))" in message
    assert "Register one with `@i2p_zoo.sparse_op(" in message
    assert "Supported: " in message

    @sparse_op(torch.special.erfcx)
    def erfcx(x):
        return x.derive(torch.special.erfcx(x.features))

    assert certify(model, net, torch.randn(1, 3, 16, 16)).passed
    assert net.report.counts()["inflated"] == 2
