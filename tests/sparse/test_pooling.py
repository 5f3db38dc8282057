"""Pooling: torch's 2D result on planes, and a search by Python's integers on clouds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, SparseTensor, UnsupportedError, image_to_plane
from i2p_zoo.sparse.pooling import average_pool, max_pool, reduce_sites
from tests.helpers import (
    check_on_plane,
    force_torch_path,
    make_window,
    property_test,
    random_cloud,
    random_images,
    relative_error,
    seeded,
    strided_sites,
    window_rows,
)

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
BOTH_PATHS = pytest.mark.parametrize("path", ["numba", "torch"], indirect=True)
EXTENTS = st.tuples(st.integers(1, 9), st.integers(1, 9))
KERNELS = st.tuples(st.integers(1, 4), st.integers(1, 4))
STRIDES = st.sampled_from([None, 1, 2, 3, (1, 2), (3, 1)])


@pytest.fixture
def path(request, monkeypatch):
    if request.param == "torch":
        force_torch_path(monkeypatch)
    return request.param


def fits(extents, pool):
    """Whether torch takes the window and each of its outputs o is a site, floor(c / stride) of some pixel c."""
    stride = (pool.stride,) * 2 if isinstance(pool.stride, int) else pool.stride
    try:
        out = pool(torch.zeros(1, 1, *extents))
    except RuntimeError:
        return False
    # torch gives -inf where a dilated window holds padding only
    return bool(out.isfinite().all()) and all(o <= -(-e // s) for o, e, s in zip(out.shape[2:], extents, stride, strict=True))


@given(
    extents=EXTENTS,
    kernel=KERNELS,
    stride=STRIDES,
    dilation=st.sampled_from([1, 1, 2, (2, 1)]),
    ceil_mode=st.booleans(),
    axis=st.sampled_from("zyx"),
    data=st.data(),
)
@property_test
def test_max_pool_of_a_plane_is_that_of_the_image(extents, kernel, stride, dilation, ceil_mode, axis, data):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    assume(fits(extents, pool))
    check_on_plane(pool, random_images(2, 3, *extents), axis=axis)


@given(
    extents=EXTENTS,
    kernel=KERNELS,
    stride=STRIDES,
    ceil_mode=st.booleans(),
    count_include_pad=st.booleans(),
    divisor=st.sampled_from([None, None, 1, 5]),
    channels=st.integers(1, 3),
    axis=st.sampled_from("zyx"),
    data=st.data(),
)
@property_test
def test_average_pool_of_a_plane_is_that_of_the_image(
    extents, kernel, stride, ceil_mode, count_include_pad, divisor, channels, axis, data
):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    assume(fits(extents, pool))
    check_on_plane(pool, random_images(2, channels, *extents), axis=axis)


USUAL_POOLS = {  # the windows of timm's networks; the hypothesis tests above need not meet each of them
    "max 3/2": nn.MaxPool2d(3, 2, 1),
    "max 2/2": nn.MaxPool2d(2, 2),
    "max 3/2 ceil": nn.MaxPool2d(3, 2, 0, ceil_mode=True),
    "max 3/1": nn.MaxPool2d(3, 1, 1),
    "max 3/1 dilated": nn.MaxPool2d(3, 1, 1, dilation=2),
    "average 2/2": nn.AvgPool2d(2, 2),
    "average 2/2 ceil, no padding counted": nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "average 3/1": nn.AvgPool2d(3, 1, 1),
    "average 3/1, no padding counted": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average 3/2": nn.AvgPool2d(3, 2, 1),
    "average 3/2, divided by 7": nn.AvgPool2d(3, 2, 1, divisor_override=7),
}


@BOTH_PATHS
@AXES
@pytest.mark.parametrize("extents", [(8, 8), (7, 9)], ids=str)
@pytest.mark.parametrize("pool", USUAL_POOLS.values(), ids=USUAL_POOLS.keys())
def test_usual_pools_of_a_plane_are_those_of_the_image(pool, extents, axis, path):
    check_on_plane(pool, random_images(2, 3, *extents), axis=axis)


@BOTH_PATHS
def test_of_equal_values_the_gradient_goes_where_torch_sends_it(path):
    check_on_plane(nn.MaxPool2d(3, 2, 1), torch.zeros(1, 2, 6, 6, dtype=torch.float64))


GLOBAL_POOLS = {
    "average": lambda x: F.adaptive_avg_pool2d(x, 1),
    "maximum": lambda x: F.adaptive_max_pool2d(x, (1, 1)),
    "average layer": nn.AdaptiveAvgPool2d(1),
    "average to its own extent": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "average to None": lambda x: F.adaptive_avg_pool2d(x, (None, None)),
}


@AXES
@pytest.mark.parametrize("pool", GLOBAL_POOLS.values(), ids=GLOBAL_POOLS.keys())
def test_global_pools_of_a_plane_are_those_of_the_image(pool, axis):
    check_on_plane(pool, random_images(3, 4, 5, 7), axis=axis)


def reduced_windows(features, coords, out_coords, window, reduce):
    """Reduces the active voxels of each window by `reduce`; an empty window is 0. Differentiable."""
    values = []
    for taps in window_rows(coords, out_coords, window):
        active = [row for row in taps if row >= 0]
        values.append(reduce(features[active]) if active else features[:0].sum(0))
    return torch.stack(values)


CLOUD_POOLS = {
    "max": (F.max_pool2d, lambda rows: rows.max(0).values),
    "average": (F.avg_pool2d, lambda rows: rows.mean(0)),
}


@BOTH_PATHS
@pytest.mark.parametrize("name", CLOUD_POOLS)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    voxels=st.integers(1, 25),
    low=st.integers(-7, 3),
    seed=st.integers(0, 100),
    data=st.data(),
)
@property_test
def test_pool_of_a_cloud_reduces_the_active_voxels_of_each_window(name, path, kernel, stride, voxels, low, seed, data):
    padding = data.draw(st.integers(0, kernel // 2))
    pool, reduce = CLOUD_POOLS[name]
    x = random_cloud(2, voxels=voxels, batch_size=3, extent=4, low=low, seed=seed)
    features = x.features.requires_grad_()
    window = make_window((kernel,) * 3, (stride,) * 3, padding=((kernel - 1) // 2, padding, padding))
    out = pool(x.derive(features), kernel, stride, padding)
    unshifted = out.coords + torch.tensor([0, *window.shift], dtype=torch.int32)
    assert sorted(map(tuple, unshifted.tolist())) == strided_sites(x.coords, (stride,) * 3)
    expected = reduced_windows(features, x.coords, out.coords, window, reduce)
    assert torch.allclose(out.features, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(expected.shape, generator=seeded(seed), dtype=torch.float64)
    found, truth = (torch.autograd.grad(value, features, cotangent)[0] for value in (out.features, expected))
    assert torch.allclose(found, truth, rtol=1e-12, atol=1e-12)


@BOTH_PATHS
def test_an_empty_window_is_zero_and_passes_no_gradient(path):
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 3, 3, 3]])
    features = torch.tensor([[-5.0], [-7.0], [-9.0]]).requires_grad_()
    for pool in (F.max_pool2d, F.avg_pool2d):
        out = pool(SparseTensor(features, coords), 1, 2)
        assert out.coords.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
        assert out.features.tolist() == [[-5.0], [0.0]]
        (gradient,) = torch.autograd.grad(out.features.sum(), features)
        assert gradient.tolist() == [[1.0], [0.0], [0.0]]


@BOTH_PATHS
def test_nan_and_infinity_are_not_lost_by_a_maximum(path):
    nan, inf = float("nan"), float("inf")
    image = torch.tensor([[1.0, nan, 2.0, 3.0, -inf, -inf, inf, nan], [nan, 0, 0, 0, -inf, -inf, 0, 0]], dtype=torch.float64)
    image = image.view(1, 1, 2, 8)
    found = F.max_pool2d(image_to_plane(image), 2).dense().view(1, 1, 1, 4)
    expected = F.max_pool2d(image, 2)
    assert expected.flatten().tolist()[1:3] == [3.0, -inf]
    assert torch.equal(found.nan_to_num(77, 88, 99), expected.nan_to_num(77, 88, 99))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pools_of_every_float_dtype_equal_float64_on_the_same_values(dtype):
    images = random_images(2, 3, 6, 6).to(dtype)
    maximum = F.max_pool2d(image_to_plane(images), 3, 2, 1)
    average = F.avg_pool2d(image_to_plane(images), 3, 2, 1)
    assert maximum.dtype == average.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    assert torch.equal(maximum.dense()[:, :, 0].double(), F.max_pool2d(images.double(), 3, 2, 1))
    assert relative_error(average.dense()[:, :, 0], F.avg_pool2d(images.double(), 3, 2, 1)) < tolerance


def test_pools_reduce_several_channel_dimensions_each_for_itself():
    x = random_cloud(6, voxels=60)
    for pool in (F.max_pool2d, F.avg_pool2d):
        flat, folded = pool(x, 3, 2, 1), pool(x.derive(x.features.unflatten(1, (2, 3))), 3, 2, 1)
        assert torch.equal(folded.features, flat.features.unflatten(1, (2, 3)))


def test_pools_multiply_the_stride_and_raise_the_level():
    x = random_cloud(2).with_plan(level=1)
    out = F.avg_pool2d(SparseTensor(x.features, x.coords, stride=2).with_plan(level=1), 2)
    assert (out.stride, out.plan.level) == (4, 2)
    out = F.max_pool2d(x, 3, (2, 1), 1)
    assert out.stride == (2, 2, 1)
    assert F.max_pool2d(x, 3, 1, 1).coords is x.coords


EMPTY_SAMPLES = SparseTensor(
    torch.tensor([[-1.0, 4.0], [-3.0, 2.0], [-5.0, 7.0]], dtype=torch.float64),
    torch.tensor([[2, 0, 0, 0], [0, 0, 0, 0], [2, 1, 1, 1]]),
    batch_size=4,
)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [[-3, 2], [0, 0], [-3, 5.5], [0, 0]]),
        ("sum", [[-3, 2], [0, 0], [-6, 11], [0, 0]]),
        ("amax", [[-3, 2], [0, 0], [-1, 7], [0, 0]]),
    ],
)
def test_a_sample_without_voxels_reduces_to_zero(how, expected):
    features = EMPTY_SAMPLES.features.clone().requires_grad_()
    reduced = reduce_sites(EMPTY_SAMPLES.derive(features), how)
    assert reduced.tolist() == expected
    reduced.sum().backward()
    each = {"mean": [[0.5, 0.5], [1, 1], [0.5, 0.5]], "sum": [[1, 1]] * 3, "amax": [[1, 0], [1, 1], [0, 1]]}[how]
    assert features.grad.tolist() == each


def test_windows_leave_a_sample_without_voxels_empty():
    for pool in (F.max_pool2d, F.avg_pool2d):
        out = pool(EMPTY_SAMPLES, 2)
        assert (out.batch_size, out.sample_counts.tolist()) == (4, [1, 0, 1, 0])


@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_of_a_cloud_equals_a_loop_over_samples(how):
    x = random_cloud(6, voxels=50, batch_size=3)
    x = x.derive(x.features.unflatten(1, (2, 3)))
    expected = torch.stack([getattr(torch, how)(x.features[x.coords[:, 0] == sample], dim=0) for sample in range(3)])
    assert torch.allclose(reduce_sites(x, how), expected, rtol=1e-12)


@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_nan_in_one_sample_stays_in_it(how):
    x = random_cloud(1, voxels=30, batch_size=3)
    features = x.features.clone()
    features[int((x.coords[:, 0] == 1).nonzero()[0, 0])] = float("nan")
    assert reduce_sites(x.derive(features), how).isnan().flatten().tolist() == [False, True, False]


GRADCHECKED = {
    "max pool": lambda x: max_pool(x, make_window((3, 3, 3), (2, 2, 2)), 0).features,
    "max pool of stride 1": lambda x: max_pool(x, make_window((3, 3, 3)), 0).features,
    "average pool": lambda x: average_pool(x, make_window((3, 3, 3), (2, 2, 2)), 0).features,
    "average pool of stride 1": lambda x: average_pool(x, make_window((2, 3, 1)), 0).features,
    "mean": lambda x: reduce_sites(x, "mean"),
    "sum": lambda x: reduce_sites(x, "sum"),
    "amax": lambda x: reduce_sites(x, "amax"),
}


@BOTH_PATHS
@pytest.mark.parametrize("function", GRADCHECKED.values(), ids=GRADCHECKED.keys())
def test_gradcheck(function, path):
    x = random_cloud(2, voxels=12, extent=3)
    assert gradcheck(lambda features: function(x.derive(features)), x.features.requires_grad_())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.max_pool2d(x, 2, return_indices=True), "indices"),
        (lambda x: F.adaptive_avg_pool2d(x, 2), "`adaptive_avg_pool2d`.* to 2: .*pooled to 1"),
        (lambda x: F.adaptive_avg_pool2d(x, (1, 4)), r"to \(1, 4\)"),
        (lambda x: F.adaptive_max_pool2d(x, 3), "`adaptive_max_pool2d`.* to 3"),
        (lambda x: F.lp_pool2d(x, 2.0, 2), "sparse_op"),
        (lambda x: F.max_pool2d(x, (2, 2, 2)), r"got \(2, 2, 2\)"),
    ],
)
def test_pools_without_a_sparse_counterpart_are_refused(call, message):
    with pytest.raises((UnsupportedError, InvalidInputError), match=message):
        call(random_cloud(2))
