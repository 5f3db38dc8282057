"""Kernel maps by Triton's kernels: the CPU's tables, bit for bit."""

from __future__ import annotations

import itertools

import torch

from i2p_zoo.sparse.coordinates import SiteCache, derive_sites
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.kernel_maps import KernelMap, build_table, kernel_map
from i2p_zoo.sparse.kernels import maps_triton
from i2p_zoo.sparse.site_search import search_table
from tests.helpers import make_window, random_cloud

WINDOWS = [
    make_window((3, 3, 3)),
    make_window((3, 3, 3), (2, 2, 2)),
    make_window((5, 3, 1), (2, 1, 3)),
    make_window((2, 2, 2), (2, 2, 2), padding=(0, 0, 0)),
    make_window((3, 1, 3), dilation=(2, 1, 3)),
    make_window((1, 2, 4), (1, 2, 1), padding=(0, 1, 3)),
    make_window((1, 1, 1), (2, 2, 2)),
]


def full_map(coords: torch.Tensor, window) -> KernelMap:
    """The CPU's map with the taps that read nothing."""
    cache = SiteCache()
    out = derive_sites(cache, coords, None, window.stride, (0, 0, 0), None)
    table, counts = build_table(cache, coords, out, window)
    return KernelMap(list(range(len(table))), table, len(coords), window.kernel, int(counts.sum()))


def check_tables_and_their_transposed():
    for number, (window, is_sorted) in enumerate(itertools.product(WINDOWS, (False, True))):
        coords = random_cloud(1, voxels=150, batch_size=3, extent=7, low=-11 + number, seed=number).coords
        if is_sorted:
            coords = derive_sites(SiteCache(), coords, None, (1, 1, 2), (0, 0, 0), None)
        expected = full_map(coords, window)
        with force_device_path():
            cache = SiteCache()
            out = derive_sites(cache, coords, None, window.stride, (0, 0, 0), None)
            kmap = kernel_map(cache, coords, out, window)
            assert kmap.taps == expected.taps
            assert torch.equal(kmap.table, expected.table)
            assert kmap.num_pairs == expected.num_pairs
            transposed, inverse = kmap.transposed, kmap.inverse.table
        assert torch.equal(transposed, expected.transposed)
        assert torch.equal(inverse, expected.transposed)


def check_a_mirrored_table_turned_round_is_its_transposed():
    coords = random_cloud(1, voxels=150, extent=7).coords
    with force_device_path():
        kmap = kernel_map(SiteCache(), coords, coords, make_window((3, 5, 3)))
        assert kmap.is_mirrored
        assert torch.equal(kmap.transposed, maps_triton.transpose(kmap.table, len(coords)))


def check_far_voxels_and_wide_dilations_do_not_wrap_around():
    ends = torch.tensor([[0, 0, 0, -(2**30)], [0, 0, 0, 2**30]], dtype=torch.int32)
    apart = torch.tensor([[0, 0, 0, 0], [0, 2**29, -(2**29), 7]], dtype=torch.int32)
    with force_device_path():
        wide = kernel_map(SiteCache(), ends, ends, make_window((1, 1, 3), dilation=(1, 1, 2**30)))
        alone = kernel_map(SiteCache(), apart, apart, make_window((3, 3, 3)))
    assert wide.table.t().tolist() == [[-1, 0, -1], [-1, 1, -1]]
    assert [row for row in alone.table.tolist() if max(row) >= 0] == [[0, 1]]


def check_one_voxel_and_no_output():
    coords = torch.tensor([[0, 1, -1, 5]], dtype=torch.int32)
    none = coords[:0]
    with force_device_path():
        assert search_table(SiteCache(), coords, coords, make_window((1, 1, 1))).tolist() == [[0]]
        assert search_table(SiteCache(), coords, none, make_window((3, 3, 3))).shape == (27, 0)
    empty = torch.empty((27, 0), dtype=torch.int32)
    assert maps_triton.transpose(empty, 3).tolist() == [[-1] * 3] * 27
    assert maps_triton.transpose(empty.t().contiguous(), 3).shape == (0, 3)
