"""How often networks of tokens and U-Nets wait for a device, and what they launch: a few waits a level, however many clouds."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

import i2p_zoo
from i2p_zoo import SparseTensor
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.sparse import site_search
from i2p_zoo.sparse.geometry import Window
from i2p_zoo.sparse.kernels import maps_triton
from tests.helpers import seeded
from tests.launches import count_launches

BOUNDS = {  # waits, and launches of a forward pass and of one with its gradients
    "vit_tiny_patch16_224": (6, 900, 1300),
    "swin_tiny_patch4_window7_224": (22, 1750, 2500),
    "unet": (6, 330, 650),
}


def make(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "unet":
            return create_unet("resnet18", 4, pretrained=False, skip_downsamples=2, voxel_size=1.0)
        return i2p_zoo.create_model(name, num_classes=4, voxel_size=1.0)


def clouds(count):
    """Surfaces of unlike numbers of voxels, scattered over the canvas."""
    rows = []
    for sample in range(count):
        u, v = (torch.rand((2, 260 + 9 * sample), generator=seeded(sample)) * 96).long()
        rows.append(torch.stack([torch.full_like(u, sample), (u + v) // 8, u, v], 1))
    coords = torch.cat(rows).unique(dim=0).int()
    return torch.randn((len(coords), 3), generator=seeded(0)), coords


class RightRows:
    """Stands for the kernels of maps: counts a launch as they do, and gives the rows, which numbers of tokens hang on."""

    def __init__(self, counts):
        self.counts = counts

    def find_rows(self, keys, order, box, out, kernel, stride, before, dilation):
        self.counts.launches["kernel _find_rows"] += 1
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            window = Window(kernel=kernel, stride=stride, before=before, dilation=dilation)
            sites = site_search.SortedSites(keys, order, box)
            return site_search._search_taps(sites, out.long(), window, torch.arange(math.prod(kernel)))

    def transpose(self, table, inputs):
        return maps_triton.transpose(table, inputs)


def count(monkeypatch, name, number, step):
    model = make(name).train(step)
    features, coords = clouds(number)
    with count_launches(monkeypatch) as counts, torch.set_grad_enabled(step):
        monkeypatch.setattr(site_search, "_load_kernels", lambda: RightRows(counts))
        out = model(SparseTensor(features, coords, batch_size=number))
        out = out.features if isinstance(out, SparseTensor) else out
        if step:
            out.square().sum().backward()
    return counts


@pytest.mark.parametrize("step", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize("name", BOUNDS)
def test_network_keeps_to_its_bounds_on_32_clouds(name, step, monkeypatch):
    counts = count(monkeypatch, name, 32, step)
    most_waits, *most_launches = BOUNDS[name]
    assert counts.waits.total() <= most_waits, counts.waits
    assert counts.launches.total() <= most_launches[step], counts.launches


@pytest.mark.parametrize("name", BOUNDS)
def test_clouds_more_cost_no_wait_more(name, monkeypatch):
    assert count(monkeypatch, name, 3, False).waits == count(monkeypatch, name, 12, False).waits
