"""How many kernels a network launches on a device and how often it waits for one: few, however many clouds there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sample_boxes import sample_boxes
from i2p_zoo.sparse.sparse_convolution import convolve
from tests.helpers import make_window, random_cloud
from tests.launches import count_launches

BOUNDS = {  # waits and launches of a forward pass and of one with its gradients
    "resnet18": ((25, 300), (25, 550)),
    "tf_efficientnet_lite0": ((30, 400), (30, 900)),
}


def count(monkeypatch, name, clouds, step):
    torch.manual_seed(0)
    model = i2p_zoo.create_model(name, num_classes=10, stem="point", skip_downsamples=2).train(step)
    x = random_cloud(3, voxels=80 * clouds, batch_size=clouds, extent=24, dtype=torch.float32)
    features, coords = x.features, x.coords
    with count_launches(monkeypatch) as counts, torch.set_grad_enabled(step):
        out = model(i2p_zoo.SparseTensor(features, coords, batch_size=clouds))
        if step:
            F.cross_entropy(out, torch.arange(clouds) % 10).backward()
    return counts


@pytest.mark.parametrize("step", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize("name", BOUNDS)
def test_network_keeps_to_its_bounds_whatever_the_number_of_clouds(name, step, monkeypatch):
    few, many = (count(monkeypatch, name, clouds, step) for clouds in (2, 7))
    assert few.waits == many.waits
    assert few.launches == many.launches
    most_waits, most_launches = BOUNDS[name][step]
    assert many.waits.total() <= most_waits, many.waits
    assert many.launches.total() <= most_launches, many.launches
    assert many.launches["kernel _find_rows"] >= 4, "maps are counted too"


@pytest.mark.parametrize(
    ("call", "name", "waits"),
    [
        (lambda x: x.features.sum().item(), "_local_scalar_dense", 1),
        (lambda x: bool((x.coords > 0).any()), "_local_scalar_dense", 1),
        (lambda x: x.coords.tolist(), "tolist", 1),
        (lambda x: x.coords.cpu(), "cpu", 1),
        (lambda x: x.coords.numpy(), "numpy", 1),
        (lambda x: x.features[x.features[:, 0] > 0], "index by mask", 1),
        (lambda x: x.features[[0, 1]], "index by a list", 1),
        (lambda x: torch.tensor([1, 2], device=x.device), "tensor", 1),
        (lambda x: x.coords.new_tensor([1, 2]), "new_tensor", 1),
        (lambda x: x.coords.unique(), "_unique2", 1),
        (lambda x: (x.coords > 0).nonzero(), "nonzero", 1),
        (lambda x: torch.repeat_interleave(x.coords[:, 0].abs()), "repeat_interleave", 1),
        (lambda x: torch.bincount(x.coords[:, 0].abs()), "bincount", 2),
    ],
)
def test_each_way_to_wait_is_counted(call, name, waits, monkeypatch):
    with count_launches(monkeypatch) as counts:
        x = random_cloud(3)
        counts.waits.clear()
        call(x)
    assert counts.waits[name] == waits, counts.waits


def test_work_inside_a_handler_of_a_network_s_function_is_counted(monkeypatch):
    x = random_cloud(3)
    with count_launches(monkeypatch) as counts:
        torch.relu(x)
        nn.Identity()(x)
    assert counts.launches["relu"] == 1
    assert counts.totals == (0, 1)


def test_maps_of_a_larger_window_take_as_many_launches(monkeypatch):
    totals = []
    for extent in (1, 3, 7):
        with count_launches(monkeypatch) as counts:
            x = random_cloud(2, voxels=60)
            counts.launches.clear()
            window_sites(x.cache, x.coords, None, make_window((extent,) * 3, (2, 2, 2)))
        totals.append(counts.launches)
    assert totals[0] == totals[1] == totals[2]
    assert totals[0]["kernel _find_rows"] == 1


def test_a_map_s_layers_list_the_pairs_of_their_weight_gradients_once_and_wait_for_none(monkeypatch):
    with count_launches(monkeypatch) as counts:
        x = random_cloud(4, voxels=60, dtype=torch.float32)
        _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
        weights = [torch.randn(4, 3, 3, 3, 4, requires_grad=True) for _ in range(3)]
        out = sum(convolve(x.features, weight, kmap, 1) for weight in weights)
        counts.waits.clear()
        out.sum().backward()
    assert not counts.waits
    assert counts.launches["kernel _dweight_masked_kernel"] == 3
    assert [counts.launches[f"kernel {name}"] for name in ("_count_pairs", "_list_pairs")] == [1, 1]


def test_boxes_of_samples_are_not_waited_for(monkeypatch):
    with count_launches(monkeypatch) as counts:
        coords = random_cloud(1, batch_size=3).coords
        counts.waits.clear()
        sample_boxes(coords[:, 0], coords[:, 3], 3)
    assert not counts.waits
