"""spconv's engine on the CPU, by which its calls are checked without a GPU."""

from __future__ import annotations

import importlib

import pytest
import torch
from threadpoolctl import threadpool_limits

from i2p_zoo.sparse.engines.spconv_engine import SpconvConvolution
from i2p_zoo.sparse.kernel_maps import window_sites
from tests.helpers import dense_convolution, make_window, random_cloud, relative_error, seeded


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # spconv's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("needs", ["both gradients", "the input's", "the weight's"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_spconv_on_one_thread_gives_the_convolution_of_our_map_and_its_gradients(stride, needs, dtype, monkeypatch):
    spconv = pytest.importorskip("spconv")
    operations = importlib.import_module("spconv.pytorch.ops")
    monkeypatch.setattr(operations, "get_current_stream", lambda: 0)  # which it asks for on the CPU too
    backward, backward_calls = operations.indice_conv_backward, []
    monkeypatch.setattr(operations, "indice_conv_backward", lambda *a, **k: backward_calls.append(1) or backward(*a, **k))
    x = random_cloud(8, voxels=200, dtype=torch.float32)
    window = make_window((3, 2, 3), stride)
    out, _, kmap = window_sites(x.cache, x.coords, None, window)
    features, weight = x.features.to(dtype), torch.randn((16, 3, 2, 3, 8), generator=seeded()).to(dtype)
    upstream = torch.randn((len(out), 16), generator=seeded(1)).to(dtype)
    engine, taps = SpconvConvolution(spconv, kmap), weight.flatten(1, 3)
    with threadpool_limits(1, user_api="openmp"):
        found = [engine.forward(features, taps)]
        if needs == "both gradients":
            found += engine.gradients(upstream, features, taps)
        elif needs == "the input's":
            found.append(engine.input_gradient(upstream, taps))
        else:
            found.append(engine.weight_gradient(upstream, features, taps))
    exact = [tensor.double().requires_grad_() for tensor in (features, weight)]
    values = dense_convolution(exact[0], x.coords, out, exact[1], None, window, 1)
    of_input, of_weight = torch.autograd.grad(values, exact, upstream.double())
    gradients = {"both gradients": [of_input, of_weight], "the input's": [of_input], "the weight's": [of_weight]}
    assert bool(backward_calls) == (needs == "both gradients"), "spconv computes both gradients or none"
    tolerance = {torch.float32: 1e-6, torch.float16: 5e-3}[dtype]
    for tensor, truth in zip(found, [values, *gradients[needs]], strict=True):
        assert tensor.dtype == dtype
        assert relative_error(tensor.reshape(truth.shape), truth) < tolerance
