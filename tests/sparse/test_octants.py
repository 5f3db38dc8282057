"""Means over octants: against a loop over sites, with strays, samples without sites and octants without any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2p_zoo import SparseTensor
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.octants import pool_octants


def tensor_of(coords, batch_size, channels=2):
    coords = torch.tensor(sorted(set(map(tuple, coords))), dtype=torch.int32).view(-1, 4)
    features = torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return SparseTensor(features, coords, batch_size=batch_size)


def loop(x):
    """Site by site; the box leaves out a hundredth of the sites, rounded down, at each end of each axis."""
    rows = np.zeros((x.batch_size, 8, x.features.shape[1]))
    for sample in range(x.batch_size):
        inside = (x.coords[:, 0] == sample).numpy()
        places, values = x.coords[inside, 1:].numpy(), x.features[inside].detach().numpy()
        strays = len(places) // 100
        middle = [np.sort(places[:, axis])[[strays, -1 - strays]].mean() for axis in range(3) if len(places)]
        members = [[] for _ in range(8)]
        for place, value in zip(places, values, strict=True):
            members[sum(int(place[axis] >= middle[axis]) << (2 - axis) for axis in range(3))].append(value)
        for octant, inhabitants in enumerate(members):
            if inhabitants:
                rows[sample, octant] = np.mean(inhabitants, axis=0)
    return rows.reshape(x.batch_size, -1)


sites = st.tuples(st.integers(0, 2), *[st.integers(-4, 5)] * 3)


@settings(deadline=None)  # the first call compiles
@given(st.lists(sites, min_size=1, max_size=60))
def test_means_are_those_of_a_loop(coords):
    x = tensor_of(coords, batch_size=4)  # of which the last has no site
    np.testing.assert_allclose(pool_octants(x).numpy(), loop(x), rtol=0, atol=1e-12)


def test_a_few_strays_do_not_move_the_middle():
    block = [(0, z, y, x) for z in range(8) for y in range(8) for x in range(8)]
    near, far = (tensor_of([*block, (0, end, 0, 0)], 1) for end in (8, 500))
    torch.testing.assert_close(pool_octants(far), pool_octants(near))
    np.testing.assert_allclose(pool_octants(far).numpy(), loop(far), rtol=0, atol=1e-12)


def test_order_and_neighbours_in_the_batch_do_not_matter():
    random = np.random.default_rng(0)
    coords = unique_rows(torch.from_numpy(random.integers(0, 9, (300, 4)) % np.array([2, 9, 9, 9])).int())[0]
    features = torch.randn(len(coords), 3, dtype=torch.float64)
    both = pool_octants(SparseTensor(features, coords, batch_size=2))
    order = torch.randperm(len(coords))
    torch.testing.assert_close(pool_octants(SparseTensor(features[order], coords[order], batch_size=2)), both)
    first = coords[:, 0] == 0
    torch.testing.assert_close(pool_octants(SparseTensor(features[first], coords[first], batch_size=1)), both[:1])


def test_gradients_are_those_of_finite_differences():
    x = tensor_of([(0, 0, 0, 0), (0, 1, 3, 0), (0, 5, 3, 2), (1, 0, 0, 0), (1, 0, 0, 1)], 2)

    def pool(features):
        return pool_octants(x.derive(features))

    assert torch.autograd.gradcheck(pool, x.features.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_means_have_the_dtype_of_the_features(dtype):
    x = tensor_of([(0, 0, 0, z) for z in range(20)], 1)
    pooled = pool_octants(x.derive(x.features.to(dtype)))
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled.double(), pool_octants(x), rtol=0, atol=2e-2 if dtype.itemsize == 2 else 1e-6)
