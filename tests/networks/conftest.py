"""The paper's networks on a dense grid, by which ours are judged."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import SparseTensor
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.helpers import randomise_norms_, seeded

EXTENT = 16  # of the dense grid; sites have coordinates of 0 and more


def grid_cloud(voxels=60, batch=2):
    random = seeded(5)
    places = torch.randperm(EXTENT**3, generator=random)[: voxels * batch].view(batch, voxels)
    sites = [(b, p // EXTENT**2, p // EXTENT % EXTENT, p % EXTENT) for b, row in enumerate(places.tolist()) for p in row]
    coords = torch.tensor(sorted(sites), dtype=torch.int32)
    return SparseTensor(torch.randn(len(coords), 3, generator=random, dtype=torch.float64), coords, batch_size=batch)


class DenseNetwork:
    """Features on a dense grid with a mask of the sites, convolved by `conv3d`; everything else is written out."""

    def __init__(self, state, x):
        self.state = state
        size = (x.batch_size, *[EXTENT] * 3)
        self.mask = torch.zeros(size, dtype=torch.float64)
        self.grid = torch.zeros(x.batch_size, 3, *[EXTENT] * 3, dtype=torch.float64)
        b, z, y, x_ = x.coords.long().unbind(1)
        self.mask[b, z, y, x_] = 1
        self.grid[b, :, z, y, x_] = x.features
        self.seen = {}

    def convolve(self, grid, mask, name, stride):
        weight = self.state[f"{name}.weight"].permute(0, 4, 1, 2, 3)
        edge = weight.shape[-1]
        low, high = {3: (1, 1), 2: (0, 1), 1: (0, 0)}[edge]  # taps -1, 0, 1; 0, 1; 0
        if stride == 2:
            mask = F.max_pool3d(mask, 2)  # the unique floor(c / 2)
        out = F.conv3d(F.pad(grid, [low, high] * 3), weight, stride=stride)
        out = out[..., : mask.shape[1], : mask.shape[2], : mask.shape[3]] * mask[:, None]
        self.seen[name] = out, mask
        return out, mask

    def normalise(self, grid, mask, name):
        mean, var, weight, bias = (self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / (var + 1e-5).sqrt()
        out = (grid * scale[:, None, None, None] + (bias - mean * scale)[:, None, None, None]) * mask[:, None]
        self.seen[name] = out, mask
        return out

    def block(self, grid, mask, name, stride):
        convolutions = sum(f"{name}.conv{n}.weight" in self.state for n in (1, 2, 3))
        strided = 1 if convolutions == 2 else 2
        out, sites = grid, mask
        for n in range(1, convolutions + 1):
            out, sites = self.convolve(out, sites, f"{name}.conv{n}", stride if n == strided else 1)
            out = self.normalise(out, sites, f"{name}.bn{n}")
            out = out.relu() if n < convolutions else out
        shortcut = grid
        if f"{name}.downsample.0.weight" in self.state:
            shortcut, _ = self.convolve(grid, mask, f"{name}.downsample.0", stride)
            shortcut = self.normalise(shortcut, sites, f"{name}.downsample.1")
        out = (out + shortcut).relu()
        self.seen[name] = out, sites
        return out, sites

    def run(self, blocks):
        grid, mask = self.convolve(self.grid, self.mask, "conv1", 1)
        grid = self.normalise(grid, mask, "bn1")  # and no activation
        for stage, count in enumerate(blocks, 1):
            for number in range(count):
                grid, mask = self.block(grid, mask, f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1)
        pooled = grid.sum((2, 3, 4)) / mask.sum((1, 2, 3))[:, None]
        logits = pooled @ self.state["fc.weight"].t() + self.state["fc.bias"]
        mean, var, weight, bias = (self.state[f"fc.norm.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (logits - mean) / (var + 1e-5).sqrt() * weight + bias


def make_papers_unet(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = create_unet("resnet18", 3, pretrained=False, preset="image2point", decoder_channels=(24, 16, 12, 8), **kwargs)
    return randomise_norms_(unet).double().eval()


def make_papers_network(name, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = i2p_zoo.create_model(name, preset="image2point", **{"num_classes": 5, **kwargs})
    return randomise_norms_(model, 1).double().eval()


def clouds():
    """Two clouds of different sizes in the unit cube, the same each time."""
    random = np.random.default_rng(0)
    return [random.uniform(-1, 1, (count, 3)).astype(np.float32) for count in (150, 90)]
