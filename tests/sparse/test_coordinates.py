"""Coordinates: checking, ordering, striding, shifting and cropping, against Python's own integers and tuples."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError
from i2p_zoo.sparse import coordinates
from i2p_zoo.sparse.coordinates import (
    SiteCache,
    batch_index,
    check_coords,
    derive_sites,
    inside,
    pack,
    sorting_order,
    unique_rows,
)
from tests.helpers import force_torch_path, property_test, random_cloud, strided_sites

ROWS = st.lists(st.tuples(st.integers(0, 2), *[st.integers(-9, 9)] * 3), min_size=1, max_size=40)
FAR = 2**30


def rows(*sites):
    return torch.tensor(sites, dtype=torch.int32)


def tuples(coords):
    return [tuple(row) for row in coords.tolist()]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_of_every_width_become_int32(dtype):
    coords, size, order = check_coords(torch.tensor([[0, -3, 2, 1], [1, 0, 0, 5]], dtype=dtype), None, None)
    assert coords.dtype == torch.int32
    assert (tuples(coords), size, order) == ([(0, -3, 2, 1), (1, 0, 0, 5)], 2, None)


def test_unsigned_bytes_keep_their_values():
    coords, _, _ = check_coords(torch.tensor([[0, 0, 255, 128]], dtype=torch.uint8), None, None)
    assert tuples(coords) == [(0, 0, 255, 128)]


def test_one_voxel_is_a_coordinate_set():
    coords, size, order = check_coords(rows((0, 7, 7, 7)), None, None)
    assert (tuples(coords), size, order) == ([(0, 7, 7, 7)], 1, None)


def test_rows_in_any_order_keep_it_and_come_with_their_sorting_order():
    given_rows = rows((1, 0, 0, 0), (0, 0, 0, 1), (0, -1, 5, 5), (0, 0, 0, 0))
    coords, size, order = check_coords(given_rows, None, None)
    assert torch.equal(coords, given_rows)
    assert size == 2
    assert order.tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("layout", ["transposed", "every second row", "every second column"])
def test_a_non_contiguous_tensor_means_what_it_shows(layout):
    sites = [(0, 1, 2, 3), (0, 4, 5, 6), (1, -7, 8, 9)]
    view = {
        "transposed": torch.tensor(sites).t().contiguous().t(),
        "every second row": torch.tensor(sites).repeat_interleave(2, 0)[::2],
        "every second column": torch.tensor(sites).repeat_interleave(2, 1)[:, ::2],
    }[layout]
    assert not view.is_contiguous()
    coords, _, _ = check_coords(view, None, None)
    assert coords.is_contiguous()
    assert tuples(coords) == sites


def test_batch_size_may_exceed_the_ids():
    assert check_coords(rows((0, 0, 0, 0)), 5, None)[1] == 5


def test_coordinates_up_to_two_to_the_thirty_are_legal():
    sites = [(0, -FAR, 0, 0), (0, FAR, 0, 0)]
    assert tuples(check_coords(rows(*sites), None, None)[0]) == sites


@pytest.mark.parametrize(
    ("coords", "batch_size", "shape", "message"),
    [
        ([[0, 0, 0, 0]], None, None, "got list"),
        (torch.zeros(3, 3).int(), None, None, r"\(N, 4\).*got \(3, 3\)"),
        (torch.zeros(4).int(), None, None, r"got \(4,\)"),
        (torch.zeros(1, 2, 4).int(), None, None, r"got \(1, 2, 4\)"),
        (torch.zeros(1, 4), None, None, r"got torch\.float32.*voxelize"),
        (torch.zeros(1, 4).bool(), None, None, r"got torch\.bool"),
        (torch.zeros(1, 4, dtype=torch.complex64), None, None, r"got torch\.complex64"),
        (torch.zeros(0, 4).int(), None, None, "at least one voxel"),
        (torch.tensor([[0, 0, FAR + 1, 0]]), None, None, rf"2\*\*30.*{FAR + 1}"),
        (torch.tensor([[0, 0, 0, -FAR - 1]]), None, None, rf"2\*\*30.*{-FAR - 1}"),
        (torch.tensor([[0, 0, 0, 2**40]]), None, None, rf"2\*\*30.*{2**40}"),
        (rows((0, 0, 0, 0), (-2, 0, 0, 0)), None, None, "must not be negative; got -2"),
        (rows((3, 0, 0, 0)), 3, None, r"`batch_size` \(=3\).*\(=3\)"),
        (rows((0, 0, 0, 0)), 0, None, r"`batch_size` \(=0\).*\(=0\)"),
        (rows((0, 0, 4, 0)), None, (1, 4, 4), r"along y run from 4 to 4.*\(1, 4, 4\).*0 to 3"),
        (rows((0, 0, 0, -1), (0, 0, 0, 2)), None, (1, 4, 4), "along x run from -1 to 2"),
        (rows((0, 1, 2, 3), (0, 0, 0, 0), (0, 1, 2, 3)), None, None, r"1 duplicate.*\[0, 1, 2, 3\].*voxelize"),
        (rows((0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)), None, None, r"2 duplicate.*\[0, 1, 2, 3\]"),
        (rows((0, -FAR, -FAR, 0), (0, FAR, FAR, 1)), None, None, rf"{2 * FAR + 1}, {2 * FAR + 1}, 2\].*2\*\*62"),
    ],
)
def test_bad_coordinates_are_quoted(coords, batch_size, shape, message):
    with pytest.raises(InvalidInputError, match=message):
        check_coords(coords, batch_size, shape)


@given(sites=ROWS)
@property_test
def test_packed_keys_order_rows_lexicographically_and_tell_them_apart(sites):
    keys = pack(rows(*sites)).tolist()
    for a, key_a in zip(sites, keys, strict=True):
        for b, key_b in zip(sites, keys, strict=True):
            assert ((a > b) - (a < b)) == ((key_a > key_b) - (key_a < key_b))


@given(sites=st.sets(st.tuples(st.integers(0, 2), *[st.integers(-FAR, FAR)] * 3), min_size=1, max_size=6))
@property_test
def test_far_rows_are_ordered_exactly_or_refused(sites):
    given_rows = list(sites)
    extents = [max(column) - min(column) + 1 for column in zip(*given_rows, strict=True)]
    if extents[0] * extents[1] * extents[2] * extents[3] > 2**62:
        with pytest.raises(InvalidInputError, match=r"2\*\*62"):
            pack(rows(*given_rows))
        return
    keys = pack(rows(*given_rows)).tolist()
    assert sorted(given_rows) == [row for _, row in sorted(zip(keys, given_rows, strict=True))]


@given(sites=st.sets(st.tuples(st.integers(0, 2), *[st.integers(-4, 4)] * 3), min_size=1, max_size=30), sort=st.booleans())
@property_test
def test_sorting_order_sorts_and_is_none_for_sorted_rows(sites, sort):
    given_rows = sorted(sites) if sort else list(sites)
    order = sorting_order(rows(*given_rows))
    assert (order is None) == (given_rows == sorted(given_rows))
    if order is not None:
        assert [given_rows[i] for i in order.tolist()] == sorted(given_rows)


@given(sites=ROWS)
@property_test
def test_unique_rows_are_the_sorted_set_and_the_inverse_restores_the_rows(sites):
    unique, inverse = unique_rows(rows(*sites))
    assert tuples(unique) == sorted(set(sites))
    assert tuples(unique[inverse]) == sites
    assert unique.dtype == torch.int32


def test_inside_takes_zero_and_refuses_the_extent_itself():
    coords = rows((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, 4), (0, -1, 0, 0), (5, 1, 0, 0))
    assert inside(coords, (2, 3, 4)).tolist() == [True, True, False, False, False, False, True]


@given(
    sites=st.sets(st.tuples(st.integers(0, 2), *[st.integers(-9, 9)] * 3), min_size=1, max_size=40),
    stride=st.tuples(*[st.integers(1, 4)] * 3).filter(lambda s: s != (1, 1, 1)),
)
@property_test
def test_strided_sites_are_the_unique_floors_also_below_zero(sites, stride):
    coords = rows(*sites)
    out = derive_sites(SiteCache(), coords, None, stride, (0, 0, 0), None)
    assert tuples(out) == strided_sites(coords, stride)


def test_minus_one_falls_on_minus_one_not_on_zero():
    out = derive_sites(SiteCache(), rows((0, -1, -2, -3)), None, (2, 2, 2), (0, 0, 0), None)
    assert tuples(out) == [(0, -1, -1, -2)]


def test_nothing_to_change_gives_the_same_object():
    coords = rows((0, 0, 0, 0), (0, 0, 2, 2))
    for shape in (None, (1, 3, 3)):
        assert derive_sites(SiteCache(), coords, shape, (1, 1, 1), (0, 0, 0), shape) is coords


def test_another_extent_is_another_object_of_the_same_rows():
    coords = rows((0, 0, 0, 0), (0, 0, 2, 2))
    out = derive_sites(SiteCache(), coords, (1, 3, 3), (1, 1, 1), (0, 0, 0), (1, 4, 4))
    assert out is not coords
    assert torch.equal(out, coords)


def test_a_shift_keeps_the_row_order():
    coords = rows((1, 3, 3, 3), (0, 1, 0, 0))
    out = derive_sites(SiteCache(), coords, None, (1, 1, 1), (0, 1, -2), None)
    assert tuples(out) == [(1, 3, 2, 5), (0, 1, -1, 2)]
    assert tuples(coords) == [(1, 3, 3, 3), (0, 1, 0, 0)]


def test_sites_beyond_the_output_extent_are_cropped():
    coords = rows(*[(0, 0, y, x) for y in range(7) for x in range(7)])
    out = derive_sites(SiteCache(), coords, (1, 7, 7), (1, 2, 2), (0, 0, 0), (1, 3, 3))
    assert tuples(out) == [(0, 0, y, x) for y in range(3) for x in range(3)]
    out = derive_sites(SiteCache(), coords, (1, 7, 7), (1, 1, 1), (0, 2, 2), (1, 3, 3))
    assert tuples(out) == [(0, 0, y, x) for y in range(3) for x in range(3)]


def test_cropping_every_site_away_quotes_the_extents():
    with pytest.raises(InvalidInputError, match=r"\(1, 5, 5\).*\(1, 1, 1\)"):
        derive_sites(SiteCache(), rows((0, 0, 4, 4)), (1, 5, 5), (1, 2, 2), (0, 0, 0), (1, 1, 1))


def test_the_same_request_gives_the_same_object_and_another_does_not():
    cache, coords = SiteCache(), random_cloud(1).coords
    first = derive_sites(cache, coords, None, (2, 2, 2), (0, 0, 0), None)
    assert derive_sites(cache, coords, None, (2, 2, 2), (0, 0, 0), None) is first
    assert derive_sites(cache, coords, None, (3, 2, 2), (0, 0, 0), None) is not first
    assert derive_sites(cache, coords.clone(), None, (2, 2, 2), (0, 0, 0), None) is not first
    cropped = derive_sites(cache, coords, (9, 9, 9), (2, 2, 2), (0, 0, 0), (2, 2, 2))
    assert tuples(cropped) == [site for site in tuples(first) if all(0 <= c < 2 for c in site[1:])]


def test_strided_sites_remember_where_they_came_from():
    cache, coords = SiteCache(), rows((0, 0, 0, 0), (0, 0, 3, 3))
    out = derive_sites(cache, coords, (1, 4, 4), (2, 2, 2), (0, 0, 0), (1, 2, 2))
    origin = cache.origins[cache.key(out)]
    assert origin.parent is coords
    assert (origin.parent_shape, origin.stride) == ((1, 4, 4), (2, 2, 2))


def test_batch_index_also_counts_a_sample_without_voxels():
    coords = rows((3, 0, 0, 0), (0, 0, 0, 0), (3, 1, 1, 1), (1, 0, 0, 0))
    index = batch_index(SiteCache(), coords, 6)
    assert index.rows.tolist() == [3, 0, 3, 1]
    expected = Counter([3, 0, 3, 1])
    assert index.counts.tolist() == [expected[number] for number in range(6)]


def test_a_cache_keeps_its_coordinates_alive_so_that_no_key_is_used_twice():
    cache, coords = SiteCache(), rows((0, 0, 0, 0))
    alive = weakref.ref(coords)
    cache.key(coords)
    del coords
    gc.collect()
    assert alive() is not None


def test_a_cache_pickles_as_an_empty_one():
    cache, coords = SiteCache(), random_cloud(1).coords
    derive_sites(cache, coords, None, (2, 2, 2), (0, 0, 0), None)
    cache.order(coords)
    assert cache.derived
    assert cache.origins
    assert cache.orders
    copied = pickle.loads(pickle.dumps(cache))
    assert (copied.orders, copied.origins, copied.derived, copied.kept) == ({}, {}, {}, {})


def test_a_cache_of_a_copy_knows_the_order_and_nothing_else(monkeypatch):
    x = random_cloud(2, voxels=40)
    x.cache.derived["something"] = 1
    copy = x.coords.clone()
    cache = x.cache.start_anew(x.coords, copy)
    monkeypatch.setattr(coordinates, "sorting_order", lambda _: pytest.fail("it sorts again"))
    assert cache.order(copy) is x.cache.order(x.coords)
    assert not cache.derived
    assert SiteCache().start_anew(x.coords, copy).orders == {}


@pytest.mark.parametrize("path", ["numba", "torch"])
@pytest.mark.parametrize("shape", [None, (6, 6, 6)])
def test_shifted_sites_keep_their_order(shape, path, monkeypatch):
    if path == "torch":
        force_torch_path(monkeypatch)
    x = random_cloud(2, voxels=40, low=0)
    moved = derive_sites(x.cache, x.coords, shape, (1, 1, 1), (1, -2, 3), shape)
    order = x.cache.order(moved)
    found = moved if order is None else moved[order]
    assert tuples(found) == sorted(tuples(moved))
    kept = [(b, z - 1, y + 2, x - 3) for b, z, y, x in tuples(x.coords)]
    assert tuples(moved) == [site for site in kept if shape is None or all(0 <= c < 6 for c in site[1:])]
