"""Sites and kernel maps in ONNX's operators, against sets and dictionaries of plain Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from i2p_zoo.export.site_graph import Margins, average_rows, find_cells, search_rows, stride_rows, unique_sites
from tests.export.conftest import run_graph
from tests.helpers import property_test

rows = arrays(np.int64, st.tuples(st.integers(1, 60), st.just(4)), elements=st.integers(-9, 9))


def as_batches(coords):
    return np.concatenate([np.abs(coords[:, :1]) % 3, coords[:, 1:]], 1)


@property_test
@given(rows)
def test_sites_are_the_sorted_distinct_rows(coords):
    coords = as_batches(coords)

    def build(op, coords):
        sites = unique_sites(op, coords, Margins([2, 0, 1], [0, 3, 1]))
        return sites.coords, sites.ranks

    sites, ranks = run_graph(build, coords=coords)
    assert list(map(tuple, sites.tolist())) == sorted(set(map(tuple, coords.tolist())))
    np.testing.assert_array_equal(sites[ranks], coords)


@property_test
@given(rows, st.sampled_from([(1, 1, 1), (2, 2, 2), (2, 1, 3)]), st.sampled_from([(0, 0, 0), (0, 1, -1)]))
def test_strides_round_down_below_zero_too(coords, stride, shift):
    strided = run_graph(lambda op, coords: stride_rows(op, coords, stride, shift), coords=coords)
    expected = [[row[0], *(c // s - d for c, s, d in zip(row[1:], stride, shift, strict=True))] for row in coords.tolist()]
    assert strided.tolist() == expected


WINDOWS = {
    "3x3x3": ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "plane": ((1, 3, 3), (0, 1, 1), (1, 1, 1)),
    "dilated": ((3, 3, 3), (2, 2, 2), (2, 2, 2)),
    "5x5x5": ((5, 5, 5), (2, 2, 2), (1, 1, 1)),
    "one-sided": ((2, 2, 2), (0, 0, 0), (1, 1, 1)),
}


def check_rows(coords, offsets, margins):
    """Compares the rows that a graph finds at offsets of unique sites (N, 4) with those of a dictionary of them."""

    def build(op, coords):
        sites = unique_sites(op, coords, margins)
        return search_rows(op, sites, sites.coords, offsets)

    row_of = {tuple(site): number + 1 for number, site in enumerate(coords.tolist())}
    expected = [[row_of.get((b, z + i, y + j, x + k), 0) for i, j, k in offsets] for b, z, y, x in coords.tolist()]
    np.testing.assert_array_equal(run_graph(build, coords=coords), expected)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("far", [0, 10**6])  # an outlier that makes the box around all huge
def test_every_tap_reads_the_site_at_its_place_or_none(name, far):
    kernel, before, dilation = WINDOWS[name]
    coords = as_batches(np.random.default_rng(0).integers(-5, 5, (400, 4)))
    coords = np.unique(np.concatenate([coords, [[0, far, -far, far]]]), axis=0)
    offsets = [
        tuple(n * d - b for n, d, b in zip(tap, dilation, before, strict=True))
        for tap in itertools.product(*map(range, kernel))
    ]
    margins = Margins()
    margins.widen_(before, (1, 1, 1), kernel, dilation)

    check_rows(coords, offsets, margins)


def test_used_taps_alone_come_in_their_order():
    coords = np.unique(as_batches(np.random.default_rng(1).integers(-3, 3, (200, 4))), axis=0)
    offsets = [(-1, 0, 1), (0, -1, -1), (0, 0, 0), (1, 1, 0)]
    margins = Margins([1, 1, 1], [1, 1, 1])

    check_rows(coords, offsets, margins)


def test_points_on_borders_lie_where_their_type_means_them_to():
    points = np.array([[0.15, -0.15, 0.1], [0.149, -0.151, 0.0999]], np.float32)
    batch = np.array([0, 4])
    cells, _ = run_graph(lambda op, points, batch: find_cells(op, points, batch, 0.05), points=points, batch=batch)
    assert cells.tolist() == [[0, 2, -3, 3], [4, 1, -4, 2]]


@pytest.mark.parametrize("points", [1, 5, 3000])
def test_means_of_voxels_are_those_of_numpy(points):
    random = np.random.default_rng(points)
    coords = as_batches(random.integers(-3, 3, (points, 4)))
    values = random.standard_normal((points, 5)).astype(np.float32)

    def build(op, coords, values):
        return average_rows(op, values, unique_sites(op, coords, Margins()))

    _, inverse = np.unique(coords, axis=0, return_inverse=True)
    sums = np.zeros((inverse.max() + 1, 5))
    np.add.at(sums, inverse.ravel(), values.astype(np.float64))
    expected = (sums / np.bincount(inverse.ravel())[:, None]).astype(np.float32)
    np.testing.assert_array_equal(run_graph(build, coords=coords, values=values), expected)
