"""Voxelization the device's way: the CPU's voxels, features and errors, and as few waits for any number of clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo.sparse.device_path import force_device_path
from tests.launches import count_launches


def clouds_of(count, dtype=torch.float32, seed=0):
    """Mappings of points around the origin, several a voxel, with everything that a point may carry."""
    random = np.random.default_rng(seed)
    clouds = []
    for number in range(count):
        points = random.normal(size=(300 + 40 * number, 4))
        clouds.append(
            {
                "points": torch.from_numpy(points).to(dtype),
                "rgb": torch.from_numpy(random.random((len(points), 3)).astype(np.float32)),
                "normals": torch.from_numpy(random.normal(size=(len(points), 3)).astype(np.float32)),
                "field:height": torch.from_numpy(random.random((len(points), 1)).astype(np.float32)),
            }
        )
    return clouds


def both_ways(*args, **kwargs):
    """(features, coords, index) of `voxelize` on the CPU and the device's way."""
    results = []
    for forced in (False, True):
        if forced:
            with force_device_path():
                x, index = i2p_zoo.voxelize(*args, return_index=True, **kwargs)
        else:
            x, index = i2p_zoo.voxelize(*args, return_index=True, **kwargs)
        results.append((x.features, x.coords, index, x.batch_size))
    return results


@pytest.mark.parametrize("reduce", ["mean", "first"])
@pytest.mark.parametrize("features", ["xyz", "rgb,normals,ones", "extra,field:height"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_voxels_and_their_features_are_the_cpu_s_bit_for_bit(dtype, features, reduce):
    expected, found = both_ways(clouds_of(3, dtype), 0.25, features, reduce=reduce)
    for value, truth in zip(found[:3], expected[:3], strict=True):
        assert value.dtype == truth.dtype
        assert torch.equal(value, truth)
    assert found[3] == expected[3] == 3


def test_clouds_of_several_types_and_one_point():
    clouds = [torch.rand(50, 3), torch.rand(40, 3, dtype=torch.float64), torch.tensor([[7, -2, 1]]), torch.rand(9, 3).half()]
    expected, found = both_ways(clouds, 0.1)
    assert all(torch.equal(value, truth) for value, truth in zip(found[:3], expected[:3], strict=True))


def test_gradients_reach_the_points_features():
    points, results = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)), []
    for forced in (False, True):
        values = torch.arange(120.0).reshape(60, 2).requires_grad_()
        if forced:
            with force_device_path():
                i2p_zoo.voxelize(points, 0.3, values).features.square().sum().backward()
        else:
            i2p_zoo.voxelize(points, 0.3, values).features.square().sum().backward()
        results.append(values.grad)
    torch.testing.assert_close(*results)


def spoil(clouds, fault):
    """Makes one cloud wrong; returns the features to ask for."""
    if fault == "NaN":
        clouds[1]["points"][7, 2] = float("nan")
    elif fault == "infinite colour":
        clouds[2]["rgb"][3, 0] = float("inf")
    elif fault == "NaN normal":
        clouds[0]["normals"][3, 1] = float("nan")
    elif fault == "too far":
        clouds[1]["points"][0, 0] = 1e10
    elif fault == "map coordinates":
        clouds[2]["points"][:, :3] += 1e6
    elif fault == "colours in doubt":
        clouds[1]["rgb"] *= -1
    return "rgb,normals,xyz"


@pytest.mark.parametrize("fault", ["NaN", "infinite colour", "NaN normal", "too far", "map coordinates", "colours in doubt"])
def test_a_fault_is_told_in_the_cpu_s_words(fault):
    messages = []
    for forced in (False, True):
        clouds = clouds_of(3, torch.float64)
        features = spoil(clouds, fault)
        if forced:
            with force_device_path(), pytest.raises(i2p_zoo.InvalidInputError) as raised:
                i2p_zoo.voxelize(clouds, 0.25, features)
        else:
            with pytest.raises(i2p_zoo.InvalidInputError) as raised:
                i2p_zoo.voxelize(clouds, 0.25, features)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "loud" in messages[1]


def test_a_fault_among_given_features_names_its_cloud():
    clouds = [torch.rand(5, 3), torch.rand(6, 3)]
    features = [torch.rand(5, 2), torch.full((6, 2), float("nan"))]
    with force_device_path(), pytest.raises(i2p_zoo.InvalidInputError, match=r"`features` of cloud 1 has 12 NaN"):
        i2p_zoo.voxelize(clouds, 0.1, features)


def test_it_waits_as_often_for_many_clouds_as_for_one(monkeypatch):
    waits = []
    for count in (1, 6):
        clouds = clouds_of(count)
        with count_launches(monkeypatch) as counts:
            i2p_zoo.voxelize(clouds, 0.25, "xyz,rgb,normals", return_index=True)
        waits.append(counts.waits)
    assert waits[0] == waits[1]
    assert waits[0].total() <= 4, waits[0]
