"""Maxima and sums over samples by Triton's kernels, against numba's on the CPU and torch in float64."""

from __future__ import annotations

import itertools

import torch

from i2p_zoo import SparseTensor
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines.numba_engine import NumbaMaximum
from i2p_zoo.sparse.kernel_maps import KernelMap
from i2p_zoo.sparse.kernels import maxima_triton, sample_sums_triton
from i2p_zoo.sparse.pooling import average_pool, max_pool, reduce_sites
from tests.helpers import make_window, random_cloud, relative_error, seeded

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SIZES = ((1, 1, 1, 1), (40, 33, 3, 65), (5, 70, 27, 64), (64, 31, 8, 3))  # inputs, outputs, taps, channels


def injective_table(inputs: int, outputs: int, taps: int) -> torch.Tensor:
    """A table whose taps read no input twice, as windows' do, some neighbours and one whole window empty."""
    random, table = seeded(inputs), torch.full((taps, outputs), -1, dtype=torch.int32)
    for row in table:
        count = min(inputs, outputs)
        row[torch.randperm(outputs, generator=random)[:count]] = torch.randperm(inputs, generator=random)[:count].int()
    table[torch.rand(table.shape, generator=random) < 0.3] = -1
    table[:, outputs // 2] = -1
    return table


def check_maxima_their_rows_and_gradients_are_the_cpu_s_bit_for_bit():
    for (inputs, outputs, taps, channels), dtype in itertools.product(SIZES, DTYPES):
        table = injective_table(inputs, outputs, taps)
        kmap = KernelMap(list(range(taps)), table, inputs, (taps, 1, 1), 0)
        features = torch.randint(-3, 3, (inputs, channels), generator=seeded(1)).to(dtype)  # equals are many
        gradient = torch.randn((outputs, channels), generator=seeded(2), dtype=torch.float64).to(dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        expected, rows = NumbaMaximum.forward(features.to(exact), kmap)
        out, source = maxima_triton.forward(features, table)
        assert torch.equal(out, expected.to(dtype))
        assert torch.equal(source, rows)
        passed = NumbaMaximum.input_gradient(gradient.to(exact), rows, kmap)
        found = maxima_triton.input_gradient(gradient, kmap.transposed, source)
        if dtype == torch.bfloat16:  # to which the interpreter does not round, but cuts off
            assert relative_error(found, passed) < 2**-7
        else:
            assert torch.equal(found, passed.to(dtype))


def check_a_window_of_a_nan_gives_it_and_passes_its_gradient_back():
    features = torch.tensor([[1.0], [float("nan")], [-torch.inf]])
    table = torch.tensor([[0, 2, -1], [1, -1, -1], [2, -1, -1]], dtype=torch.int32)
    out, source = maxima_triton.forward(features, table)
    assert (out.isnan().tolist(), source.tolist()) == ([[True], [False], [False]], [[1], [2], [-1]])
    assert out[1:].tolist() == [[-torch.inf], [0.0]]
    assert maxima_triton.forward(features, table[:, :0])[0].shape == (0, 1)


def check_sums_over_samples_in_any_order_of_rows():
    for channels, dtype in itertools.product((1, 64, 67), DTYPES):
        counts = torch.tensor([3, 0, 70, 1])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        values = torch.randn((int(counts.sum()), channels), generator=seeded(), dtype=torch.float64).to(dtype)
        for order in (None, torch.randperm(len(values), generator=seeded(3))):
            ordered = (values if order is None else values[order]).double()
            expected = torch.stack([part.sum(0) for part in ordered.split(counts.tolist())])
            found = sample_sums_triton.sum_samples(values, order, starts)
            tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
            assert found.dtype == dtype
            assert relative_error(found, expected) < tolerance


def check_pools_and_reductions_of_a_cloud_and_their_gradients():
    pools = {
        "max": lambda x: max_pool(x, make_window((3, 3, 3), (2, 2, 2)), 1).features,
        "average": lambda x: average_pool(x, make_window((2, 3, 2), (2, 1, 2)), 1).features,
        "mean": lambda x: reduce_sites(x, "mean"),
        "sum": lambda x: reduce_sites(x, "sum"),
    }
    for name, pool in pools.items():
        expected = pool_and_pass_back(pool)
        with force_device_path():
            found = pool_and_pass_back(pool)
        for value, truth in zip(found, expected, strict=True):
            assert relative_error(value, truth) < 1e-14, name


def pool_and_pass_back(pool) -> list[torch.Tensor]:
    """A cloud's pooled features, and the gradient of its own."""
    x = random_cloud(5, voxels=90)
    features = x.features.clone().requires_grad_()
    out = pool(SparseTensor(features, x.coords, batch_size=x.batch_size))
    upstream = torch.randn(out.shape, generator=seeded(1), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, features, upstream)]
