"""From voxels to points: nearest, and trilinear against torch's grid sampling and a loop over the eight neighbours."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, SparseTensor, voxelize
from i2p_zoo.sparse.devoxelization import devoxelize
from tests.helpers import force_torch_path, random_cloud, seeded


@pytest.fixture(autouse=True, params=["numba", "torch"])
def path(request, monkeypatch):
    """The CPU's way and a device's."""
    if request.param == "torch":
        force_torch_path(monkeypatch)


def dense_cloud(extent=4):
    """Every voxel of a cube, so that trilinear interpolation is the textbook's."""
    places = torch.tensor(list(itertools.product(range(extent), repeat=3)), dtype=torch.int32)
    coords = torch.cat([torch.zeros(len(places), 1, dtype=torch.int32), places], dim=1)
    return SparseTensor(torch.randn(len(coords), 2, generator=seeded(1), dtype=torch.float64), coords)


def test_in_a_full_cube_it_is_grid_sampling():
    extent, count = 4, 50
    x = dense_cloud(extent)
    inside = torch.rand(count, 3, generator=seeded(2), dtype=torch.float64) * (extent - 1) + 0.5  # between voxel centres
    positions = torch.cat([torch.zeros(count, 1, dtype=torch.float64), inside], dim=1)
    out = devoxelize(x, positions, torch.zeros(count, dtype=torch.int64))
    grid = x.features.view(extent, extent, extent, 2).permute(3, 0, 1, 2)[None]
    where = ((inside / extent) * 2 - 1).flip(1).view(1, count, 1, 1, 3)  # x, y, z in -1 to 1
    expected = F.grid_sample(grid, where, align_corners=False)[0, :, :, 0, 0].t()
    assert torch.allclose(out, expected, rtol=1e-10, atol=1e-10)


def test_voxels_that_do_not_exist_are_left_out_of_the_mean():
    x = random_cloud(3, voxels=40, extent=5)
    random = seeded(3)
    count = 80
    batch = torch.randint(0, x.batch_size, (count,), generator=random)
    where = torch.rand(count, 3, generator=random, dtype=torch.float64) * 6 - 0.5
    index = torch.randint(0, len(x.coords), (count,), generator=random)
    out = devoxelize(x, torch.cat([batch[:, None].double(), where], dim=1), index)
    rows = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    for number in range(count):
        total, value = 0.0, torch.zeros(3, dtype=torch.float64)
        lower = torch.floor(where[number] - 0.5)
        for corner in itertools.product((0, 1), repeat=3):
            site = (int(batch[number]), *(int(v) + bit for v, bit in zip(lower, corner, strict=True)))
            if site in rows:
                part = where[number] - 0.5 - lower
                weight = torch.stack([p if bit else 1 - p for p, bit in zip(part, corner, strict=True)]).prod()
                total, value = total + float(weight), value + weight * x.features[rows[site]]
        expected = value / total if total > 1e-6 else x.features[index[number]]
        assert torch.allclose(out[number], expected, rtol=1e-9, atol=1e-9)


def test_points_at_voxel_centres_get_their_voxels_features():
    x = random_cloud(4, voxels=30, extent=6)
    positions = x.coords.double()
    positions[:, 1:] += 0.5
    index = torch.arange(len(x.coords))
    for mode in ("nearest", "trilinear"):
        assert torch.allclose(devoxelize(x, positions, index, mode), x.features)


def test_nearest_is_the_voxel_of_the_point():
    points = torch.rand(200, 3, generator=seeded(4))
    x, index = voxelize(points, 0.2, return_index=True)
    positions = torch.cat([torch.zeros(200, 1), points.flip(1) / 0.2], dim=1)
    assert torch.equal(devoxelize(x, positions, index, "nearest"), x.features[index])


def test_gradient_reaches_every_voxel_that_is_read():
    x = dense_cloud(2)
    features = x.features.clone().requires_grad_()
    devoxelize(x.derive(features), torch.tensor([[0.0, 0.9, 1.1, 1.2]]), torch.tensor([0])).sum().backward()
    assert torch.allclose(features.grad.sum(), torch.tensor(2.0, dtype=torch.float64))
    assert (features.grad > 0).all()


@pytest.mark.parametrize(("mode", "index"), [("cubic", torch.zeros(1, dtype=torch.int64)), ("nearest", None)])
def test_unknown_mode_or_missing_index_is_refused(mode, index):
    with pytest.raises(InvalidInputError, match="'nearest' or 'trilinear'"):
        devoxelize(dense_cloud(2), torch.zeros(1, 4), index, mode)
