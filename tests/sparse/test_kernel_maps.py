"""Kernel maps against a search by Python's integers, and windows' geometry against torch's own output shapes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo.sparse import kernel_maps, site_search
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.kernel_maps import KernelMap, kernel_map, window_sites
from tests.helpers import force_torch_path, make_window, property_test, random_cloud, seeded, strided_sites, window_rows


def sites_of(coords):
    return [tuple(site) for site in coords.tolist()]


def whole_table(kmap, window):
    """The map as one list of input rows an output site, the taps that read nothing put back."""
    table = torch.full((len(window.offsets), kmap.num_outputs), -1, dtype=torch.int32)
    table[kmap.taps] = kmap.table
    return table.t().tolist()


@pytest.mark.parametrize("path", ["numba", "torch"])
@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    dilation=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 3)] * 3),
    voxels=st.integers(1, 40),
    low=st.integers(-9, 3),
    seed=st.integers(0, 100),
)
@property_test
def test_every_tap_reads_the_site_at_o_s_minus_p_plus_k_d(path, kernel, stride, dilation, padding, voxels, low, seed):
    x = random_cloud(1, voxels=voxels, batch_size=3, extent=5, low=low, seed=seed)
    window = make_window(kernel, stride, dilation, padding)
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            force_torch_path(patch)
        out, shape, kmap = window_sites(x.cache, x.coords, None, window)
    assert shape is None
    unshifted = out + torch.tensor([0, *window.shift], dtype=torch.int32)
    assert sorted(sites_of(unshifted)) == strided_sites(x.coords, stride)
    assert whole_table(kmap, window) == window_rows(x.coords, out, window)
    assert kmap.num_inputs == len(x.coords)


@given(kernel=st.tuples(*[st.integers(1, 3)] * 3), stride=st.sampled_from([1, 2]), seed=st.integers(0, 100))
@property_test
def test_pairs_are_listed_row_after_row_by_rising_tap(kernel, stride, seed):
    x = random_cloud(1, voxels=700, extent=9, seed=seed)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window(kernel, (stride,) * 3))
    for pairs, table in ((kmap.pairs_by_output, kmap.table), (kmap.pairs_by_input, kmap.transposed)):
        rows = [[(source, tap) for tap, source in enumerate(column) if source >= 0] for column in table.t().tolist()]
        starts = [0, *pairs.ends.tolist()]
        listed = list(zip(pairs.sources.tolist(), pairs.taps.tolist(), strict=True))
        assert [listed[a:b] for a, b in itertools.pairwise(starts)] == rows
        assert len(listed) == starts[-1] == kmap.num_pairs


@pytest.mark.parametrize("path", ["numba", "torch"])
@given(kernel=st.tuples(*[st.integers(1, 3)] * 3), stride=st.sampled_from([1, 2]), seed=st.integers(0, 100))
@property_test
def test_pairs_and_transposed_say_what_the_table_says(path, kernel, stride, seed):
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            force_torch_path(patch)
        x = random_cloud(1, voxels=30, extent=4, seed=seed)
        _, _, kmap = window_sites(x.cache, x.coords, None, make_window(kernel, (stride,) * 3))
        check_pairs(kmap, x, path)


def check_pairs(kmap, x, path):
    table = kmap.table.tolist()
    assert path == "torch" or all(max(row) >= 0 for row in table), "a tap that reads nothing is left out"
    assert kmap.num_pairs == sum(source >= 0 for row in table for source in row)
    assert torch.equal(kmap.inverse.transposed, kmap.table)
    (read_rows, written_rows), counts = kmap.pair_table
    for (tap, inputs, outputs), number, row in zip(kmap.pairs, kmap.taps, table, strict=True):
        assert tap == number
        read = zip(outputs.tolist(), inputs.tolist(), strict=True) if inputs is not None else enumerate(range(len(row)))
        found = dict(read)
        assert found == {output: source for output, source in enumerate(row) if source >= 0}
        count = int(counts[tap])
        assert dict(zip(written_rows[tap, :count].tolist(), read_rows[tap, :count].tolist(), strict=True)) == found
        assert written_rows[tap, count:].tolist() == read_rows[tap, count:].tolist() == [-1] * (read_rows.shape[1] - count)
    for row, transposed in zip(table, kmap.transposed.tolist(), strict=True):
        expected = [-1] * len(x.coords)
        for output, source in enumerate(row):
            if source >= 0:
                expected[source] = output
        assert transposed == expected


@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    axis=st.integers(0, 2),
    voxels=st.integers(1, 60),
    seed=st.integers(0, 100),
)
@property_test
def test_split_maps_in_turn_read_what_the_whole_map_reads(kernel, stride, dilation, axis, voxels, seed):
    x = random_cloud(1, voxels=voxels, extent=5, seed=seed)
    window = make_window(kernel, stride, dilation)
    _, _, kmap = window_sites(x.cache, x.coords, None, window)
    along, plane = kmap.split(axis)
    step = math.prod(kernel[axis + 1 :])  # from a tap to the next along the axis
    found = [[-1] * math.prod(kernel) for _ in range(kmap.num_outputs)]
    for tap, row in zip(plane.taps, plane.table.tolist(), strict=True):
        for output, column in enumerate(row):
            for number, voxels in enumerate(along.table.tolist()):
                found[output][tap + number * step] = voxels[column] if column >= 0 else -1
    assert found == whole_table(kmap, window)
    assert (along.num_pairs, plane.num_pairs) == (int((along.table >= 0).sum()), int((plane.table >= 0).sum()))
    used = {c for row in plane.table.tolist() for c in row if c >= 0}
    assert used == set(range(plane.num_inputs)), "every column is read"
    assert len(along.table.t().unique(dim=0)) == plane.num_inputs, "and stands once"


@pytest.mark.parametrize("queries", [1, 100, 1000])
def test_taps_that_do_not_fit_at_once_are_looked_up_in_turn(queries, monkeypatch):
    x = random_cloud(1, voxels=60)
    window = make_window((3, 5, 2), dilation=(2, 1, 1))
    force_torch_path(monkeypatch)
    monkeypatch.setattr(site_search, "_QUERIES", queries)
    kmap = kernel_map(x.cache, x.coords, x.coords, window)
    assert whole_table(kmap, window) == window_rows(x.coords, x.coords, window)


def test_only_the_identity_is_written_as_none():
    identity = KernelMap([0], torch.tensor([[0, 1, 2]], dtype=torch.int32), 3, (1, 1, 1), 3)
    swapped = KernelMap([0], torch.tensor([[1, 0, 2]], dtype=torch.int32), 3, (1, 1, 1), 3)
    fewer = KernelMap([0], torch.tensor([[0, 1, 2]], dtype=torch.int32), 4, (1, 1, 1), 3)
    assert identity.pairs == [(0, None, None)]
    assert swapped.pairs[0][1].tolist() == [1, 0, 2]
    assert fewer.pairs[0][1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("path", ["numba", "torch"])
def test_two_distant_voxels_read_nothing_but_themselves(path, monkeypatch):
    if path == "torch":
        force_torch_path(monkeypatch)
    coords = torch.tensor([[0, 0, 0, 0], [0, 2**29, -(2**29), 7]], dtype=torch.int32)
    kmap = kernel_map(SiteCache(), coords, coords, make_window((3, 3, 3)))
    taps = {tap: row for tap, row in zip(kmap.taps, kmap.table.tolist(), strict=True) if max(row) >= 0}
    assert taps == {13: [0, 1]}
    assert [tap for tap, inputs, _ in kmap.pairs if inputs is None or len(inputs)] == [13]


@pytest.mark.parametrize("path", ["numba", "torch"])
def test_taps_at_the_ends_of_int32_do_not_wrap_around(path, monkeypatch):
    if path == "torch":
        force_torch_path(monkeypatch)
    coords = torch.tensor([[0, 0, 0, -(2**30)], [0, 0, 0, 2**30]], dtype=torch.int32)
    window = make_window((1, 1, 3), dilation=(1, 1, 2**30))
    assert window_rows(coords, coords, window) == [[-1, 0, -1], [-1, 1, -1]]
    kmap = kernel_map(SiteCache(), coords, coords, window)
    assert whole_table(kmap, window) == [[-1, 0, -1], [-1, 1, -1]]


@pytest.mark.parametrize("path", ["numba", "torch"])
def test_a_map_of_taps_that_all_miss_is_empty(path, monkeypatch):
    if path == "torch":
        force_torch_path(monkeypatch)
    odd = torch.tensor([[0, 1, 1, 1]], dtype=torch.int32)
    out, _, kmap = window_sites(SiteCache(), odd, None, make_window((1, 1, 1), (2, 2, 2)))
    assert out.tolist() == [[0, 0, 0, 0]]
    assert (kmap.taps, kmap.table.tolist()) == (([0], [[-1]]) if path == "torch" else ([], []))
    assert (kmap.transposed.tolist(), kmap.num_pairs) == (kmap.table.tolist(), 0)
    assert all(len(inputs) == len(outputs) == 0 for _, inputs, outputs in kmap.pairs)


def test_maps_are_shared_by_windows_of_one_geometry_only(monkeypatch):
    built = []
    original = kernel_maps.build_table
    monkeypatch.setattr(kernel_maps, "build_table", lambda *a: built.append(a) or original(*a))
    x = random_cloud(1)
    window = make_window((3, 3, 3))
    maps = [kernel_map(x.cache, x.coords, x.coords, w) for w in (window, dataclasses.replace(window, ceil_mode=True))]
    assert maps[0] is maps[1]
    others = [
        make_window((3, 3, 1)),
        make_window((3, 3, 3), dilation=(1, 1, 2), padding=(1, 1, 1)),
        make_window((3, 3, 3), padding=(0, 1, 1)),
    ]
    for other in others:
        assert whole_table(kernel_map(x.cache, x.coords, x.coords, other), other) == window_rows(x.coords, x.coords, other)
    assert len(built) == 4


@pytest.mark.parametrize("taps", [2, 27, 32])
def test_sorted_masks_tell_the_taps_of_each_output(taps):
    table = torch.randint(-1, 3, (taps, 50), generator=seeded(), dtype=torch.int32)
    table[:, 7] = -1
    masks = KernelMap(list(range(taps)), table, 3, (1, 1, taps)).sorted_masks
    assert torch.equal(masks.order.sort().values, torch.arange(50))
    assert torch.equal(masks.bits, masks.bits.sort().values)
    for bits, output in zip(masks.bits.tolist(), masks.order.tolist(), strict=True):
        assert [bits >> tap & 1 for tap in range(taps)] == (table[:, output] >= 0).int().tolist()


@pytest.mark.parametrize("taps", [0, 1, 33])
def test_maps_of_one_tap_or_more_than_a_mask_has_bits_have_none(taps):
    kmap = KernelMap(list(range(taps)), torch.zeros((taps, 4), dtype=torch.int32), 3, (1, 1, taps))
    assert kmap.sorted_masks == (None, None)
