"""Voxels of points against numpy.unique, at any extent and number of threads, and means against sums in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2p_zoo.sparse.voxel_grid import average_voxels, find_voxels, read_positions

EXTENTS = {"a small box": 1.0, "a large box": 1e2, "a huge box": 1e3, "more than 2**50 voxels": 1e4}


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def normal(count, columns=3, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(dtype)


def numpy_voxels(clouds, voxel_size):
    """Sites and index by numpy.unique of the cells, in float64; within a type's rounding of a border lies on it."""
    cells = [cloud.astype(np.float64) / voxel_size for cloud in clouds]
    slacks = [max(np.finfo(cloud.dtype).eps, 2 * np.finfo(np.float64).eps) for cloud in clouds]
    cells = [np.floor(cell + abs(cell) * slack).astype(np.int64)[:, ::-1] for cell, slack in zip(cells, slacks, strict=True)]
    rows = np.concatenate([np.column_stack([np.full(len(part), number), part]) for number, part in enumerate(cells)])
    sites, index = np.unique(rows, axis=0, return_inverse=True)
    return sites, index.reshape(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extent", EXTENTS.values(), ids=EXTENTS.keys())
def test_voxels_are_the_sorted_cells_at_any_extent(extent, dtype, threads):
    clouds = [normal(1500, seed=1, dtype=dtype), normal(1, seed=2, dtype=dtype), normal(900, seed=3, dtype=dtype) + 3]
    clouds = [(cloud * extent).astype(dtype) for cloud in clouds]
    clouds[0][700:] = clouds[0][:800]  # several points a voxel
    clouds[0][0] = clouds[0][1] * 4  # an outlier
    sites, index = find_voxels(read_positions([torch.from_numpy(cloud) for cloud in clouds], 0.5), 0.5)
    expected_sites, expected_index = numpy_voxels(clouds, 0.5)
    assert sites.dtype == torch.int32
    assert sites.tolist() == expected_sites.tolist()
    assert index.tolist() == expected_index.tolist()


def test_points_on_borders_and_their_neighbours_lie_on_the_border(threads):
    numbers = np.r_[-3000:0, 1:3000]  # a number next to 0 is not a rounding of it
    borders = numbers[:, None] * np.array([0.01, 0.1, 0.3])
    points = np.concatenate([borders, np.nextafter(borders, -np.inf), np.nextafter(borders, np.inf)])
    sites, index = find_voxels(read_positions([torch.from_numpy(points)], 0.1), 0.1)
    exact, below, above = index.long().split(len(numbers))
    assert torch.equal(exact, below)
    assert torch.equal(exact, above)
    assert sites[exact, 2].tolist() == numbers.tolist()
    expected_sites, expected_index = numpy_voxels([points], 0.1)
    assert sites.tolist() == expected_sites.tolist()
    assert index.tolist() == expected_index.tolist()


def in_order(values, index, voxels):
    """Means of float64 sums, point after point."""
    sums = np.zeros((voxels, values.shape[1]))
    np.add.at(sums, index, values.astype(np.float64))
    return (sums / np.bincount(index, minlength=voxels)[:, None]).astype(values.dtype)


@pytest.mark.parametrize("wide", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("points", "channels", "voxels"), [(1, 1, 1), (3000, 3, 700), (5000, 7, 2)])
def test_means_have_the_bits_of_sums_in_the_order_of_the_points(points, channels, voxels, dtype, wide, threads):
    values = normal(points, channels, dtype=dtype) * 1e3
    index = np.random.default_rng(1).permutation(np.arange(points) % voxels).astype(wide)
    means = average_voxels(torch.from_numpy(values), torch.from_numpy(index), voxels)
    assert np.array_equal(means.numpy(), in_order(values, index, voxels))


def test_means_that_pass_a_gradient_have_the_same_bits():
    values, index = torch.from_numpy(normal(3000)), torch.arange(3000) % 40
    differentiable = average_voxels(values.clone().requires_grad_(), index, 40)
    assert differentiable.requires_grad
    assert torch.equal(differentiable.detach(), average_voxels(values, index, 40))


def test_values_that_are_a_view_mean_what_they_show():
    values = torch.from_numpy(normal(600, 6))
    index = torch.arange(600) % 7
    assert torch.equal(average_voxels(values[:, ::2], index, 7), average_voxels(values[:, ::2].contiguous(), index, 7))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_and_averages_the_same_voxels():
    clouds = [torch.from_numpy(normal(2000, seed=seed)) for seed in (1, 2)]
    results = []
    for device in ("cpu", "cuda"):
        sites, index = find_voxels(read_positions([cloud.to(device) for cloud in clouds], 0.3), 0.3)
        means = average_voxels(torch.cat(clouds).to(device), index, len(sites))
        results.append([sites.cpu(), index.long().cpu(), means.cpu()])
    (sites, index, means), (sites_of_gpu, index_of_gpu, means_of_gpu) = results
    assert torch.equal(sites, sites_of_gpu)
    assert torch.equal(index, index_of_gpu)
    torch.testing.assert_close(means, means_of_gpu, rtol=1e-6, atol=1e-7)
