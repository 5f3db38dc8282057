"""The rule of inflation for one kernel, against sums over the new axis and each entry written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError, inflate, inflate_weight
from i2p_zoo.choices import INFLATIONS
from tests.helpers import property_test, seeded, small_net

AXES = {"z": 1, "y": 2, "x": 3}  # where the new axis stands in (C_out, kz, ky, kx, C_in)
KERNELS = [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (1, 7), (7, 1)]
DEPTHS = [None, 1, 3, 5]
TRIANGLES = {
    1: (1,), 2: (1, 1), 3: (1, 2, 1), 4: (1, 2, 2, 1), 5: (1, 2, 3, 2, 1),
    6: (1, 2, 3, 3, 2, 1), 7: (1, 2, 3, 4, 3, 2, 1), 8: (1, 2, 3, 4, 4, 3, 2, 1),
}  # fmt: skip
BY_INFLATION = pytest.mark.parametrize("inflation", INFLATIONS)
BY_AXIS = pytest.mark.parametrize("axis", AXES)


def random_weight(*shape, dtype=torch.float64, seed=5):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@BY_AXIS
@BY_INFLATION
def test_sum_over_the_new_axis_is_the_2d_kernel_or_length_times_it(inflation, axis, kernel, depth):
    weight = random_weight(4, 3, *kernel)
    length = depth or max(kernel)
    out = inflate_weight(weight, inflation, axis, depth)
    plane = weight.movedim(1, -1)  # (C_out, ky, kx, C_in)
    assert out.shape == (*plane.shape[: AXES[axis]], length, *plane.shape[AXES[axis] :])
    assert out.is_contiguous()
    times = length if inflation == "copy" else 1
    assert torch.allclose(out.sum(AXES[axis]), times * plane, rtol=1e-12, atol=0)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@BY_AXIS
def test_center_fills_the_one_plane_at_the_middle_tap_bit_for_bit(axis, kernel, depth):
    weight = random_weight(4, 3, *kernel)
    out = inflate_weight(weight, "center", axis, depth)
    planes = out.movedim(AXES[axis], 0)
    length = depth or max(kernel)
    filled = [number for number, plane in enumerate(planes) if plane.count_nonzero()]
    assert filled == [(length - 1) // 2]
    assert torch.equal(planes[filled[0]], weight.movedim(1, -1))


@pytest.mark.parametrize("inflation", ["average", "copy"])
@BY_AXIS
def test_average_and_copy_fill_every_plane_alike(inflation, axis):
    weight = random_weight(4, 3, 3, 3)
    planes = inflate_weight(weight, inflation, axis, 5).movedim(AXES[axis], 0)
    share = weight.movedim(1, -1) / (5 if inflation == "average" else 1)
    assert all(torch.equal(plane, share) for plane in planes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@BY_INFLATION
def test_weight_keeps_its_dtype(inflation, dtype):
    assert inflate_weight(random_weight(4, 3, 3, 3, dtype=dtype), inflation).dtype == dtype


@BY_INFLATION
def test_weight_keeps_its_device(inflation):
    out = inflate_weight(torch.empty(4, 3, 3, 3, device="meta"), inflation)
    assert (out.device.type, out.shape) == ("meta", (4, 3, 3, 3, 3))


@BY_INFLATION
def test_inflated_weight_shares_no_memory_with_the_2d_one(inflation):
    weight = random_weight(2, 3, 1, 1)
    kept = weight.clone()
    inflate_weight(weight, inflation).fill_(7.0)
    assert torch.equal(weight, kept)


@given(
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    depth=st.one_of(st.none(), st.integers(1, 8)),
    axis=st.sampled_from("zyx"),
    inflation=st.sampled_from(INFLATIONS),
)
@property_test
def test_every_entry_of_any_inflated_weight_is_its_2d_entry_by_the_rule(outputs, inputs, kernel, depth, axis, inflation):
    weight = random_weight(outputs, inputs, *kernel)
    length = depth or max(kernel)
    out = inflate_weight(weight, inflation, axis, depth)
    for tap in range(length):
        triangle = TRIANGLES[length][tap] / sum(TRIANGLES[length])
        scale = {"center": float(tap == (length - 1) // 2), "triangle": triangle, "average": 1 / length, "copy": 1.0}[inflation]
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                index = {"z": (tap, row, column), "y": (row, tap, column), "x": (row, column, tap)}[axis]
                found = out[(slice(None), *index)]
                assert torch.allclose(found, scale * weight[:, :, row, column], rtol=1e-12, atol=0)
    assert out.numel() == weight.numel() * length


@pytest.mark.parametrize("bad", ["centre", "", "Copy", None])
def test_unknown_inflation_is_quoted_with_the_known_ones(bad):
    for call in (lambda: inflate_weight(random_weight(2, 2, 3, 3), bad), lambda: inflate(small_net(), bad)):
        with pytest.raises(InvalidInputError, match=rf"center, triangle, average, copy; got {bad!r}"):
            call()


@pytest.mark.parametrize("bad", ["w", "", "zy", 0, None])
def test_unknown_axis_is_quoted_with_the_known_ones(bad):
    for call in (lambda: inflate_weight(random_weight(2, 2, 3, 3), "copy", bad), lambda: inflate(small_net(), axis=bad)):
        with pytest.raises(InvalidInputError, match=rf"'z', 'y' or 'x'; got {bad!r}"):
            call()


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
@BY_INFLATION
def test_bad_depth_of_a_weight_is_quoted(inflation, bad):
    with pytest.raises(InvalidInputError, match=rf"depth.*{bad}"):
        inflate_weight(random_weight(2, 2, 3, 3), inflation, depth=bad)
