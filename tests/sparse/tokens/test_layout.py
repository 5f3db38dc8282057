"""Layouts as plain values: what merging, splitting and regrouping atoms makes, against the dimensions of dense tensors."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import UnsupportedError
from i2p_zoo.sparse.tokens.layout import Atom, channel, channel_extents, describe, extent, merge, regroup, resolve, sizes
from tests.helpers import property_test

BATCH, HEIGHT, WIDTH = Atom("b", 2), Atom("y", 6), Atom("x", 4)
IMAGE = ((BATCH,), (channel(8),), (HEIGHT,), (WIDTH,))


def test_sizes_are_those_of_the_dense_tensor():
    assert sizes(IMAGE) == (2, 8, 6, 4)
    assert extent((HEIGHT, WIDTH)) == 24
    assert extent(()) == 1
    assert channel_extents(((channel(2), BATCH), (), (channel(3),))) == [2, 3]


@pytest.mark.parametrize("high", [1, 2, 3, 6])
def test_a_split_side_has_digits_that_make_up_the_coordinate_and_merges_back(high):
    upper, lower = HEIGHT.split(high)
    assert (upper.extent, lower.extent) == (high, 6 // high)
    for coordinate in range(6):
        digits = [coordinate // upper.place, coordinate // lower.place % lower.extent]
        assert digits[0] * (6 // high) + digits[1] == coordinate
    assert merge([upper, lower]) == (HEIGHT,)


def test_only_neighbours_of_one_factor_merge():
    upper, lower = HEIGHT.split(3)
    for dim in ([lower, upper], [upper, WIDTH], [upper, Atom("y", 2, top=False, side=1)], [HEIGHT, WIDTH], [BATCH, channel(2)]):
        assert merge(dim) == tuple(dim)
    assert merge([channel(2), channel(3), HEIGHT, channel(5)]) == (channel(6), HEIGHT, channel(5))
    assert merge([]) == ()


def test_the_batch_and_tokens_with_class_tokens_are_not_split():
    for atom in (BATCH, Atom("t", 26, prefix=2, inner=(HEIGHT, WIDTH))):
        with pytest.raises(UnsupportedError, match=f"extent {atom.extent}, cannot be split into 2 x"):
            atom.split(2)


def test_windows_are_digits():
    windows = regroup(IMAGE, (2, 8, 3, 2, 2, 2))
    assert describe(windows) == "b c y/2 y%2 x/2 x%2"
    joined = ((windows[0] + windows[2] + windows[4]), (windows[3] + windows[5]), windows[1])
    assert (sizes(joined), describe(joined)) == ((12, 4, 8), "(b y/2 x/2) (y%2 x%2) c")


@pytest.mark.parametrize(
    ("dims", "target", "expected"),
    [
        (((BATCH,), (channel(8),), (HEIGHT, WIDTH)), (2, 4, 2, 24), "b c c (y x)"),
        (((Atom("b", 1),), (channel(8),), (HEIGHT,)), (8, 6), "(b c) y"),
        (((Atom("b", 1),), (channel(8),), (HEIGHT,)), (1, 2, 4, 6), "b c c y"),
        (((Atom("b", 1),), (channel(8),)), (1, 1, 8), "b 1 c"),
        (((BATCH,), (Atom("y", 7),), (Atom("x", 7),)), (2, 1, 7, 1, 7), "b y/7 y%7 x/7 x%7"),
        (((BATCH,), (Atom("y", 7).split(1)[0],), (Atom("y", 7).split(1)[1],)), (2, 7), "b y"),
        (IMAGE, (2, 8, 24), "b c (y x)"),
        (IMAGE, (16, 24), "(b c) (y x)"),
    ],
    ids=str,
)
def test_a_reshape_takes_atoms_in_their_order(dims, target, expected):
    result = regroup(dims, target)
    assert (sizes(result), describe(result)) == (target, expected)


LARGE = (BATCH,), (Atom("y", 7),), (Atom("x", 7),), (channel(5),)
PARTITIONS = {  # of an image as large as a window or a grid: sizes, order of the dimensions, what the windows are
    "a window": ((2, 1, 7, 1, 7, 5), "(b y/7 x/7) y%7 x%7 c"),
    "a grid": ((2, 7, 1, 7, 1, 5), "b y x c"),
}


@pytest.mark.parametrize(("split", "expected"), PARTITIONS.values(), ids=PARTITIONS.keys())
def test_a_partition_of_an_image_as_large_as_it_and_its_reverse_are_the_image(split, expected):
    is_window = split[1] == 1
    order = (0, 1, 3, 2, 4, 5) if is_window else (0, 2, 4, 1, 3, 5)
    parts = regroup(LARGE, split)
    windows = regroup(tuple(parts[i] for i in order), (2, 7, 7, 5))
    assert describe(windows) == expected
    parts = regroup(windows, (2, 1, 1, 7, 7, 5))
    order = (0, 1, 3, 2, 4, 5) if is_window else (0, 3, 1, 4, 2, 5)
    assert regroup(tuple(parts[i] for i in order), (2, 7, 7, 5)) == LARGE


@pytest.mark.parametrize("target", [(2, 8, 4, 6), (2, 3, 64), (2, 16, 2, 6)], ids=str)
def test_what_parts_atoms_is_refused_with_shapes_and_factors(target):
    with pytest.raises(
        UnsupportedError, match=r"`reshape` of shape \(2, 8, 6, 4\), which is b c y x, to .*products|cannot be split"
    ):
        regroup(IMAGE, target)


def test_sizes_of_another_number_of_values_are_refused():
    assert resolve((2, 3, 4), (-1, 4)) == [6, 4]
    assert resolve((0, 4), (0, 4)) == [0, 4]
    for target in ((5, 5), (-1, 7), (-1, -1), (2, 3)):
        with pytest.raises(UnsupportedError, match=r"`reshape` of shape \(2, 3, 4\) to .*differ"):
            resolve((2, 3, 4), target)


@given(data=st.data())
@property_test
def test_regrouped_dimensions_have_the_sizes_asked_for_and_the_atoms_in_order(data):
    dims = tuple((atom,) for atom in (BATCH, channel(12), Atom("y", 8), Atom("x", 6)))
    factors = [2, 3, 4, 2, 4, 3, 2]  # batch, channels in two, height in two, width in two
    cuts = sorted(data.draw(st.sets(st.integers(1, 6))))
    target = tuple(prod(factors[a:b]) for a, b in zip([0, *cuts], [*cuts, 7], strict=True))
    result = regroup(dims, target)
    assert sizes(result) == target
    assert merge([atom for dim in result for atom in dim]) == tuple(atom for dim in dims for atom in dim)
    assert regroup(result, sizes(dims)) == dims
    assert torch.zeros(sizes(dims)).reshape(target).shape == target
