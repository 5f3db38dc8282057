"""Pairs, axes and TensorFlow's padding, and windows' geometry against torch's own output shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.layers.padding import pad_same
from torch.nn import functional as F

from i2p_zoo import InvalidInputError
from i2p_zoo.sparse.geometry import Window, as_pair, insert_axis, same_padding, simplify_stride, unfold_stride
from tests.helpers import property_test


@pytest.mark.parametrize(
    ("value", "pair"),
    [(3, (3, 3)), ((3,), (3, 3)), ([2], (2, 2)), ((2, 5), (2, 5)), ([2, 5], (2, 5)), (torch.Size([4, 1]), (4, 1))],
)
def test_one_number_or_two_are_height_and_width(value, pair):
    assert as_pair(value) == pair


@pytest.mark.parametrize("value", [(1, 2, 3), [], ()])
def test_more_or_fewer_numbers_are_quoted(value):
    with pytest.raises(InvalidInputError, match="one number or") as error:
        as_pair(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(("axis", "triple"), [(0, (9, 1, 2)), (1, (1, 9, 2)), (2, (1, 2, 9))])
def test_the_new_axis_goes_between_height_and_width_where_it_lies(axis, triple):
    assert insert_axis((1, 2), 9, axis) == triple


@given(extent=st.integers(1, 20), kernel=st.integers(1, 7), stride=st.integers(1, 5), dilation=st.integers(1, 3))
@property_test
def test_same_padding_is_timms(extent, kernel, stride, dilation):
    padded = pad_same(torch.ones(1, 1, 1, extent), (1, kernel), (1, stride), (1, dilation))[0, 0, 0]
    first = int(padded.nonzero()[0, 0])
    assert same_padding(extent, kernel, stride, dilation) == (first, len(padded) - extent - first)


@pytest.mark.parametrize(("stride", "triple"), [(3, (3, 3, 3)), ((1, 2, 2), (1, 2, 2))])
def test_a_stride_is_unfolded_and_simplified_back(stride, triple):
    assert unfold_stride(stride) == triple
    assert simplify_stride(triple) == stride


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "dilation", "shift"),
    [
        (3, 1, 1, 1, 0),
        (3, 1, 0, 1, 1),
        (5, 1, 0, 1, 2),
        (3, 1, 2, 1, -1),
        (3, 1, 0, 2, 2),
        (3, 1, 2, 2, 0),
        (1, 1, 0, 1, 0),
        (2, 1, 0, 1, 0),  # an even kernel has two centres
        (2, 1, 1, 1, 0),
        (4, 1, 0, 1, 1),
        (4, 1, 3, 1, -2),
        (3, 2, 0, 1, 0),  # a strided axis keeps the rule floor(c / s)
    ],
)
def test_sites_shift_by_what_the_padding_lacks(kernel, stride, before, dilation, shift):
    window = Window(kernel=(9, kernel, 1), stride=(1, stride, 1), before=(0, before, 0), dilation=(1, dilation, 1))
    assert window.shift == (0, shift, 0)


@given(
    extents=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    before=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    after=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
@property_test
def test_output_extent_is_that_of_conv2d(extents, kernel, stride, dilation, before, after):
    padded = [e + b + a for e, b, a in zip(extents, before, after, strict=True)]
    assume(all(p >= (k - 1) * d + 1 for p, k, d in zip(padded, kernel, dilation, strict=True)))
    image = torch.empty(1, 1, *padded, device="meta")
    expected = F.conv2d(image, torch.empty(1, 1, *kernel, device="meta"), stride=stride, dilation=dilation).shape[2:]
    window = Window(kernel=(5, *kernel), stride=(2, *stride), before=(2, *before), after=(2, *after), dilation=(1, *dilation))
    assert window.out_shape((7, *extents)) == (4, *expected)


@given(
    extents=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    data=st.data(),
)
@property_test
def test_output_extent_is_that_of_max_pool2d(extents, kernel, stride, dilation, ceil_mode, data):
    padding = data.draw(st.integers(0, kernel // 2))
    assume(min(extents) + 2 * padding >= (kernel - 1) * dilation + 1)
    expected = F.max_pool2d(torch.zeros(1, 1, *extents), kernel, stride, padding, dilation, ceil_mode).shape[2:]
    window = Window(
        kernel=(kernel,) * 3,
        stride=(stride,) * 3,
        before=(padding,) * 3,
        after=(padding,) * 3,
        dilation=(dilation,) * 3,
        new_axis=2,
        ceil_mode=ceil_mode,
    )
    assert window.out_shape((*extents, 5)) == (*expected, -(-5 // stride))


def test_offsets_run_over_x_fastest():
    window = Window(kernel=(2, 1, 3), before=(1, 0, 2), dilation=(3, 1, 2))
    assert window.offsets == [(-1, 0, -2), (-1, 0, 0), (-1, 0, 2), (2, 0, -2), (2, 0, 0), (2, 0, 2)]
