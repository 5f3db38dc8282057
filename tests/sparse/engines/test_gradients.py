"""Every engine computes the gradients that are asked for, and no other: by what it calls."""

from __future__ import annotations

import contextlib
from unittest.mock import patch

import pytest
import torch

from i2p_zoo import SparseConv3d
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.engines.numba_engine import NumbaConvolution, NumbaDepthwise
from i2p_zoo.sparse.engines.selection import use_engine
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution, TorchDepthwise
from i2p_zoo.sparse.engines.triton_engine import TritonDepthwise
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import convolve
from tests.helpers import make_window, random_cloud, relative_error, seeded
from tests.triton_tools import require_interpreter

ENGINES = {
    "numba": (NumbaConvolution, 1),
    "numba, depthwise": (NumbaDepthwise, 4),
    "torch": (TorchConvolution, 1),
    "torch, two groups": (TorchConvolution, 2),
    "torch, depthwise": (TorchDepthwise, 4),
    "triton, depthwise": (TritonDepthwise, 4),
}
WHOLE = {"forward", "input_gradient", "weight_gradient"}


@contextlib.contextmanager
def running(kind):
    """Has a kind of engine run, on the CPU."""
    with contextlib.ExitStack() as stack:
        if kind in (TorchConvolution, TorchDepthwise):
            stack.enter_context(use_engine("torch"))
        if kind is TritonDepthwise:
            require_interpreter()
            stack.enter_context(patch("i2p_zoo.sparse.kernels.depthwise_triton._SPLITS", 1))  # fewer programs to interpret
        if kind not in (NumbaConvolution, NumbaDepthwise):
            stack.enter_context(force_device_path())
        yield


@pytest.fixture
def calls(monkeypatch):
    """What of an engine is called: its class and the method."""
    called = []
    classes = {Engine, DepthwiseEngine, *(kind for kind, _ in ENGINES.values())}
    for owner in classes:
        for name in WHOLE & vars(owner).keys():
            method = vars(owner)[name]
            if getattr(method, "__isabstractmethod__", False):
                continue

            def record(self, *args, name=name, method=method):
                called.append((type(self), name))
                return method(self, *args)

            monkeypatch.setattr(owner, name, record)
    return called


def draw(groups):
    x = random_cloud(4, voxels=30, extent=4, dtype=torch.float32)
    weight = torch.randn((4, 3, 3, 3, 4 // groups), generator=seeded())
    return x, weight, window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))[2]


@pytest.mark.parametrize(("kind", "groups"), ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("needs", [(True, False), (False, True), (True, True), (False, False)], ids=str)
def test_only_gradients_that_are_asked_for_are_computed(calls, kind, groups, needs):
    x, weight, kmap = draw(groups)
    leaves = [leaf.requires_grad_(needed) for leaf, needed in zip((x.features, weight), needs, strict=True)]
    with running(kind):
        out = convolve(*leaves, kmap, groups)
        if any(needs):
            out.square().sum().backward()
    asked = [name for name, needed in zip(("input_gradient", "weight_gradient"), needs, strict=True) if needed]
    assert [name for owner, name in calls if owner is kind] == ["forward", *asked]
    assert [leaf.grad is not None for leaf in leaves] == list(needs)


@pytest.mark.parametrize(("kind", "groups"), ENGINES.values(), ids=ENGINES)
def test_frozen_weights_keep_no_features_for_a_gradient(kind, groups):
    x, weight, kmap = draw(groups)
    kept = []
    saving = torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor)
    with running(kind), saving:
        convolve(x.features.requires_grad_(), weight, kmap, groups)
    assert all(tensor.shape != x.features.shape for tensor in kept)


def test_the_first_layer_s_input_costs_no_gradient(calls):
    layer = SparseConv3d(4, 4, 3)
    layer(random_cloud(4, voxels=30, dtype=torch.float32)).features.sum().backward()
    assert {name for _, name in calls} == {"forward", "weight_gradient"}


@pytest.mark.parametrize(("kind", "groups"), [case for case in ENGINES.values() if case[0] is not TritonDepthwise])
def test_a_backward_pass_inside_autocast_stays_in_the_layer_s_dtype(kind, groups):
    x, weight, kmap = draw(groups)
    leaves = [x.features.requires_grad_(), weight.requires_grad_()]
    with running(kind):
        expected = torch.autograd.grad(convolve(*leaves, kmap, groups).square().sum(), leaves)
        out = convolve(*leaves, kmap, groups).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            values = torch.autograd.grad(out, leaves)
    for value, truth in zip(values, expected, strict=True):
        assert relative_error(value, truth) < 1e-6
