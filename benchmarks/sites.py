"""Coordinates: kernel maps against spconv's pairs, voxelizing against spconv's PointToVoxel and numpy.unique."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.layers import WINDOW
from benchmarks.shapes import sphere
from benchmarks.timing import Result, compare, take_turns
from i2p_zoo import voxelize
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.kernel_maps import KernelMap, window_sites


def kernel_maps(quick: bool = False) -> Iterator[Result]:
    """The 3x3x3 submanifold map of a sphere's surface."""
    for voxels in (10_000,) if quick else (100_000, 1_000_000):
        yield from _kernel_map_case(sphere(voxels))


def _kernel_map_case(coords: Tensor) -> Iterator[Result]:
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops

    moved = coords.clone()
    moved[:, 1:] -= coords[:, 1:].amin(0)
    shape = (moved[:, 1:].amax(0) + 1).tolist()
    shuffled = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))].contiguous()

    def ours(sites: Tensor = coords) -> KernelMap:
        return window_sites(SiteCache(), sites, None, WINDOW)[2]

    def spconv() -> Tensor:
        ones = [1] * 3
        counts: Tensor = ops.get_indice_pairs(moved, 1, shape, ConvAlgo.Native, [3] * 3, ones, ones, ones, [0] * 3, True)[2]
        return counts

    # spconv counts the pairs of a tap together with its mirror image's and leaves out the centre tap's.
    if ours().num_pairs != int(spconv()[:13].sum()) * 2 + len(coords):
        raise RuntimeError("spconv's pairs are others than ours: not timed.")
    times = take_turns({"ours": ours, "ours, shuffled": lambda: ours(shuffled), "spconv": spconv}, rounds=7)
    case = f"{len(coords)} voxels"
    yield compare("kernel map", case, times, "spconv", "ours", 3, pairs=ours().num_pairs)
    yield compare("kernel map", case, times, "spconv", "ours, shuffled", 3)


def voxelizing(quick: bool = False) -> Iterator[Result]:
    """Points on a unit sphere into voxels of 0.01, with the mean of their features."""
    for points in (20_000,) if quick else (200_000, 2_000_000):
        yield from _voxelize_case(points)


def _voxelize_case(points: int) -> Iterator[Result]:
    import cumm.tensorview as tv
    from spconv.utils import Point2VoxelCPU3d

    cloud = torch.nn.functional.normalize(torch.randn((points, 3), generator=torch.Generator().manual_seed(0)))
    array = cloud.numpy()
    generator = Point2VoxelCPU3d([0.01] * 3, [-1.01] * 3 + [1.01] * 3, 3, points, 5)
    wrapped = tv.from_numpy(array)  # a view, which keeps nothing alive

    def unique() -> int:
        scaled = array.astype(np.float64) / 0.01
        cells = np.floor(scaled + np.abs(scaled) * np.finfo(np.float32).eps).astype(np.int32)  # the rule of borders
        found, index = np.unique(cells, axis=0, return_inverse=True)
        sums = np.zeros((len(found), 3), np.float32)
        np.add.at(sums, index, array)
        return len(sums / np.bincount(index)[:, None])

    def spconv() -> int:
        return len(generator.point_to_voxel(wrapped)[0].numpy_view().mean(1))

    def ours() -> int:
        return len(voxelize(cloud, 0.01).coords)

    if ours() != unique() or abs(spconv() - unique()) > 1e-4 * points:  # spconv's borders are float32's
        raise RuntimeError(f"{ours()} voxels, numpy.unique {unique()}, spconv {spconv()}: not timed.")
    times = take_turns({"ours": ours, "numpy.unique": unique, "spconv": spconv}, rounds=5)
    yield compare("voxelize", f"{points} points", times, "numpy.unique", "ours", voxels=unique())
    yield compare("voxelize", f"{points} points", times, "spconv", "ours", 1)
