"""What we are compared with: per-tap gather and scatter-add in torch, spconv's CPU engine, and dense conv3d."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from i2p_zoo import SparseConv3d, SparseTensor
from i2p_zoo.sparse.engines import numba_engine, selection
from i2p_zoo.sparse.engines.spconv_engine import SpconvConvolution
from i2p_zoo.sparse.kernel_maps import KernelMap


@contextmanager
def gather_scatter() -> Iterator[None]:
    """Runs all that has a kernel of ours as plain torch does: a tap's rows gathered, multiplied, added to their outputs."""
    with patch.object(numba_engine, "has_kernel", lambda _: False):
        yield


def exact_convolution(features: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """A dense-channel (C_out, K, C_in) or depthwise (C, K, 1) convolution in float64: the truth that outputs are checked by."""
    rows, taps = features.double(), weight.double()
    depthwise = taps.shape[2] == 1 and features.shape[1] > 1
    out = rows.new_zeros((kmap.num_outputs, taps.shape[0]))
    for tap, row in zip(kmap.taps, kmap.table, strict=True):
        outputs = (row >= 0).nonzero().squeeze(1)
        gathered = rows[row[outputs].long()]
        out[outputs] += gathered * taps[:, tap, 0] if depthwise else gathered @ taps[:, tap].t()
    return out


def spconv_convolution(x: SparseTensor, weight: Tensor) -> Callable[[], Tensor]:
    """Returns spconv's submanifold convolution of `x` by a (C_out, 3, 3, 3, C_in) weight, its pairs made beforehand."""
    import spconv.pytorch as spconv

    layer = spconv.SubMConv3d(weight.shape[4], weight.shape[0], 3, bias=False, indice_key="map", algo=spconv.ConvAlgo.Native)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    low = x.coords.amin(0)
    coords = x.coords.clone()
    coords[:, 1:] -= low[1:]
    shape = (coords[:, 1:].amax(0) + 1).tolist()
    sparse = spconv.SparseConvTensor(x.features, coords.contiguous(), shape, x.batch_size)
    with torch.no_grad():
        layer(sparse)  # makes the pairs

    def run() -> Tensor:
        with torch.no_grad():
            features: Tensor = layer(sparse).features
        return features

    return run


def dense_twin(model: nn.Module, sparse: nn.Module) -> nn.Module:
    """Turns a 2D timm network into a dense 3D one with the weights of its sparse twin.

    Args:
        model: timm's network of convolutions, BatchNorm, max pooling and linear layers; changed in place.
        sparse: `i2p_zoo.inflate(model)`.
    """
    for name, layer in list(model.named_modules()):
        twin: nn.Module | None = None
        if isinstance(layer, nn.Conv2d):
            source = sparse.get_submodule(name)
            assert isinstance(source, SparseConv3d)
            depth, height, width = source.weight.shape[1:4]
            args: Any = {"stride": layer.stride[0], "padding": layer.padding[0], "groups": layer.groups, "bias": False}
            twin = nn.Conv3d(layer.in_channels, layer.out_channels, (depth, height, width), **args)
            twin.weight.data = source.weight.detach().permute(0, 4, 1, 2, 3).contiguous()
        elif isinstance(layer, nn.BatchNorm2d):
            twin = nn.BatchNorm3d(layer.num_features)
            twin.load_state_dict(layer.state_dict())
        elif isinstance(layer, nn.MaxPool2d):
            twin = nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            twin = nn.AdaptiveAvgPool3d(1)
        if twin is not None:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, twin.train(layer.training))
    return model


@contextmanager
def spconv_engine() -> Iterator[None]:
    """Runs dense-channel convolutions by spconv's CPU engine on our kernel maps, on one thread, where it is right."""
    import spconv
    import spconv.pytorch

    engine = partial(SpconvConvolution, spconv)
    with patch.object(selection, "find_packaged", lambda features, kmap: engine), threadpool_limits(1, user_api="openmp"):
        yield
