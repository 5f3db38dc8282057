"""The inputs: real clouds of tests/data/kicad-mini.npz, and surfaces of any number of voxels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from i2p_zoo import SparseTensor, voxelize
from i2p_zoo.data import load_npz

CLOUDS = Path(__file__).parents[1] / "tests" / "data" / "kicad-mini.npz"


def real_clouds(count: int, voxel_size: float = 0.05) -> SparseTensor:
    """Returns `count` clouds of 1,024 points within the unit sphere as one batch, features x, y, z."""
    train, _ = load_npz(CLOUDS)
    step = len(train) // count
    return voxelize([train.points[i * step] for i in range(count)], voxel_size)


def real_surface(voxels: int) -> SparseTensor:
    """Returns so many real clouds that they have about this many voxels, each with about 12 neighbours.

    At a voxel size of 0.1 the 1,024 points of a cloud leave no holes, as after a network's first halving.
    """
    each = len(real_clouds(32, 0.1).coords) / 32
    return real_clouds(max(round(voxels / each), 1), 0.1)


def sphere(voxels: int) -> Tensor:
    """Returns (N, 4) int32 coordinates of the surface of a sphere with about this many voxels."""
    radius = (voxels / 18.85) ** 0.5  # a sphere of radius r meets about 6 pi r^2 voxels
    random = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn((voxels * 12, 3), generator=random)) * radius
    return voxelize(points, 1.0).coords
