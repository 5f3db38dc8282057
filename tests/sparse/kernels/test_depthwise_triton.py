"""The depthwise kernels for GPUs, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo.sparse.engines.tiles import BLOCKS
from tests.helpers import relative_error, seeded
from tests.triton_tools import require_interpreter

TOLERANCES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture
def kernels(monkeypatch):
    require_interpreter()
    from i2p_zoo.sparse.kernels import depthwise_triton

    monkeypatch.setattr(depthwise_triton, "_SPLITS", 2)  # fewer programs, of more than one block of rows
    return depthwise_triton


def run(kernels, features, weight, table, upstream):
    return kernels.forward(features, weight, table, BLOCKS[0]), kernels.weight_gradient(features, upstream, table, BLOCKS[0])


def draw(inputs, outputs, taps, channels, dtype):
    """Features, weight, a table with absent neighbours and one output without any, and the output's gradient."""
    random = seeded(inputs + 7 * taps + 31 * channels)
    shapes = ((inputs, channels), (taps, channels), (outputs, channels))
    features, weight, upstream = (torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes)
    table = torch.randint(-1, max(inputs, 1), (taps, outputs), generator=random, dtype=torch.int32)
    table[:, :1] = -1
    return features, weight, table if inputs else table.fill_(-1), upstream


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("taps", "channels", "inputs", "outputs"),
    [(1, 1, 1, 2), (3, 65, 40, 97), (27, 3, 33, 31), (2, 130, 33, 31), (3, 64, 7, 70)],
)
def test_kernels_give_the_sums_in_float64(kernels, taps, channels, inputs, outputs, dtype):
    features, weight, table, upstream = draw(inputs, outputs, taps, channels, dtype)
    read = torch.cat([features.double(), torch.zeros(1, channels)])[table.long()]  # row -1 reads zeros
    out, gradient = run(kernels, features, weight, table, upstream)
    assert (out.dtype, gradient.dtype) == (dtype, dtype)
    assert relative_error(out, (read * weight.double()[:, None]).sum(0)) < TOLERANCES[dtype]
    assert relative_error(gradient, (read * upstream.double()).sum(1)) < TOLERANCES[dtype]


@pytest.mark.parametrize(("inputs", "outputs", "taps"), [(0, 0, 3), (0, 4, 3), (5, 0, 3), (5, 4, 0)])
def test_no_rows_and_no_taps_give_zeros(kernels, inputs, outputs, taps):
    out, gradient = run(kernels, *draw(inputs, outputs, taps, 5, torch.float32))
    assert torch.equal(out, torch.zeros(outputs, 5))
    assert torch.equal(gradient, torch.zeros(taps, 5))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf * 0
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_reaches_only_the_outputs_that_read_it(kernels, value):
    weight = torch.tensor([[1.0, 2.0], [value, value]])
    out = kernels.forward(torch.ones(3, 2), weight, torch.tensor([[0, 1, 2], [-1, 2, -1]], dtype=torch.int32), BLOCKS[0])
    assert out.isfinite().tolist() == [[True] * 2, [False] * 2, [True] * 2]


def test_features_that_are_no_numbers_stay_out_of_the_gradients_of_taps_that_do_not_read_them(kernels):
    features = torch.tensor([[float("nan")], [1.0]])
    gradient = kernels.weight_gradient(
        features, torch.ones(2, 1), torch.tensor([[0, -1], [1, -1]], dtype=torch.int32), BLOCKS[0]
    )
    assert gradient.isfinite().tolist() == [[False], [True]]


def test_the_weight_s_gradient_has_the_same_bits_in_every_run(kernels):
    features, _, table, upstream = draw(300, 300, 3, 5, torch.float32)
    first, second = (kernels.weight_gradient(features, upstream, table, BLOCKS[0]) for _ in range(2))
    assert torch.equal(first, second)
