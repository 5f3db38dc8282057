"""Sparse convolution against a dense conv3d over the same volume with zeros where no voxel is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from i2p_zoo import InvalidInputError, SparseConv3d, SparseTensor
from i2p_zoo.sparse import kernel_maps
from i2p_zoo.sparse import sparse_convolution as convolution
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.engines import numba_engine
from i2p_zoo.sparse.engines.numba_engine import NumbaConvolution, NumbaDepthwise
from i2p_zoo.sparse.site_search import search_table
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from tests.helpers import (
    dense_convolution,
    force_torch_path,
    make_window,
    property_test,
    random_cloud,
    relative_error,
    seeded,
    strided_sites,
)

KERNELS = [1, 2, 3, 5, (1, 7), (7, 1), (3, 1)]
STRIDES = [1, 2, 3, (2, 1)]
GROUPINGS = {  # in channels, out channels, groups
    "dense": (3, 4, 1),
    "one channel": (1, 2, 1),
    "two groups": (4, 6, 2),
    "depthwise": (4, 4, 4),
    "depthwise, multiplier 2": (3, 6, 3),
}
BOTH_ENGINES = pytest.mark.parametrize(
    ("name", "engine"), [("dense", NumbaConvolution), ("two groups", NumbaConvolution), ("depthwise", NumbaDepthwise)]
)
BY_NAME = pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS.keys())


def pair(value):
    return (value, value) if isinstance(value, int) else value


def random_weight(shape, seed=7, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def make_layer(grouping, kernel, stride=1, dilation=1, bias=True, dtype=torch.float64, **kwargs):
    inputs, outputs, groups = grouping
    layer = SparseConv3d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=bias, dtype=dtype, **kwargs)
    with torch.no_grad():
        layer.weight.copy_(random_weight(layer.weight.shape))
        if bias:
            layer.bias.copy_(random_weight(layer.bias.shape, seed=8))
    return layer


def layer_window(kernel, stride, dilation):
    """The geometry that docs/design.md gives a 2D layer: along z the larger of each, everything centred."""
    (ky, kx), (sy, sx), (dy, dx) = pair(kernel), pair(stride), pair(dilation)
    return make_window((max(ky, kx), ky, kx), (max(sy, sx), sy, sx), (max(dy, dx), dy, dx))


def check_layer(layer, x, kernel, stride=1, dilation=1, tolerance=1e-12):
    out = layer(x)
    window = layer_window(kernel, stride, dilation)
    assert sorted(map(tuple, out.coords.tolist())) == strided_sites(x.coords, window.stride)
    bias = None if layer.bias is None else layer.bias.detach().double()
    weight = layer.weight.detach().double()
    expected = dense_convolution(x.features.double(), x.coords, out.coords, weight, bias, window, layer.groups)
    assert out.features.dtype == x.features.dtype
    assert relative_error(out.features, expected) < tolerance
    return out


@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@BY_NAME
def test_layer_equals_dense_convolution(grouping, kernel, stride):
    layer = make_layer(grouping, kernel, stride)
    check_layer(layer, random_cloud(grouping[0], voxels=70, extent=7), kernel, stride)


@pytest.mark.parametrize("dilation", [2, 3, (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5, (3, 1), (1, 3)], ids=str)
@BY_NAME
def test_dilated_layer_equals_dense_convolution(grouping, kernel, dilation):
    check_layer(make_layer(grouping, kernel, 1, dilation), random_cloud(grouping[0], voxels=120, extent=7), kernel, 1, dilation)


@pytest.mark.parametrize("dilation", [2, 3])
@pytest.mark.parametrize("kernel", [2, 4])
def test_even_dilated_layer_keeps_its_sites_and_equals_dense_convolution(kernel, dilation):
    layer = make_layer(GROUPINGS["dense"], kernel, 1, dilation)
    x = random_cloud(3, voxels=120, extent=7)
    out = layer(x)
    assert torch.equal(out.coords, x.coords)
    # An even kernel has no middle tap: along z tap (k - 1) // 2 stands on the output's own plane, as "center" fills it.
    across, along = (kernel - 1) * dilation // 2, (kernel - 1) // 2 * dilation
    window = make_window((kernel,) * 3, dilation=(dilation,) * 3, padding=(along, across, across))
    expected = dense_convolution(x.features, x.coords, x.coords, layer.weight, layer.bias, window, 1)
    assert relative_error(out.features, expected) < 1e-12


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("stride", [1, 2])
@BY_NAME
def test_float32_layer_equals_dense_float64_convolution(grouping, stride, bias):
    layer = make_layer(grouping, 3, stride, bias=bias, dtype=torch.float32)
    check_layer(layer, random_cloud(grouping[0], voxels=300, dtype=torch.float32), 3, stride, tolerance=2e-6)


@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    voxels=st.integers(1, 60),
    batch_size=st.integers(1, 3),
    low=st.integers(-9, 3),
    grouping=st.sampled_from(list(GROUPINGS.values())),
    seed=st.integers(0, 100),
)
@property_test
def test_any_centred_window_equals_dense_convolution(kernel, stride, dilation, voxels, batch_size, low, grouping, seed):
    inputs, outputs, groups = grouping
    x = random_cloud(inputs, voxels=voxels, batch_size=batch_size, extent=5, low=low, seed=seed)
    weight = random_weight((outputs, *kernel, inputs // groups))
    window = make_window(kernel, stride, dilation)
    out = sparse_convolution(x, weight, None, window, groups)
    assert sorted(map(tuple, out.coords.tolist())) == strided_sites(x.coords, stride)
    expected = dense_convolution(x.features, x.coords, out.coords, weight, None, window, groups)
    assert torch.allclose(out.features, expected, rtol=1e-12, atol=1e-12)


@given(
    rows=st.sets(st.tuples(st.integers(0, 2), *[st.integers(-(2**29), 2**29)] * 3), min_size=1, max_size=12),
    near=st.booleans(),
)
@property_test
def test_far_and_negative_coordinates_are_convolved_like_near_ones(rows, near):
    rows = sorted({(b, z % 7 - 3, y % 7 - 3, x % 7 - 3) for b, z, y, x in rows}) if near else sorted(rows)
    coords = torch.tensor(rows, dtype=torch.int32)
    features = random_weight((len(rows), 2))
    weight = random_weight((3, 3, 3, 3, 2))
    try:
        x = SparseTensor(features, coords)
    except InvalidInputError as error:
        assert "2**62" in str(error)  # noqa: PT017  (the extent of random far points may be too large)
        return
    out = sparse_convolution(x, weight, None, make_window((3, 3, 3)))
    expected = torch.zeros(len(rows), 3, dtype=torch.float64)
    for o, target in enumerate(rows):
        for i, source in enumerate(rows):
            offset = [s - t + 1 for s, t in zip(source[1:], target[1:], strict=True)]
            if source[0] == target[0] and all(0 <= tap <= 2 for tap in offset):
                expected[o] += weight[:, offset[0], offset[1], offset[2]] @ features[i]
    assert torch.allclose(out.features, expected, rtol=1e-12, atol=1e-12)


def test_row_order_of_the_input_changes_only_the_row_order_of_a_submanifold_layer():
    x = random_cloud(3, voxels=60)
    order = torch.randperm(len(x.coords), generator=seeded(3))
    shuffled = SparseTensor(x.features[order], x.coords[order], batch_size=x.batch_size)
    layer = make_layer(GROUPINGS["dense"], 3)
    assert torch.allclose(layer(shuffled).features, layer(x).features[order], rtol=1e-12, atol=1e-12)


def test_samples_of_a_batch_do_not_mix():
    x = random_cloud(3, voxels=80, batch_size=3)
    layer = make_layer(GROUPINGS["dense"], 3, 2)
    out = layer(x)
    for sample in range(3):
        mine = x.coords[:, 0] == sample
        coords = x.coords[mine] * torch.tensor([0, 1, 1, 1], dtype=torch.int32)
        alone = layer(SparseTensor(x.features[mine], coords))
        of_sample = out.coords[:, 0] == sample
        assert torch.equal(out.coords[of_sample][:, 1:], alone.coords[:, 1:])
        assert torch.allclose(out.features[of_sample], alone.features, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)], ids=str)
@BY_NAME
def test_gradcheck_of_features_weight_and_bias(grouping, stride):
    inputs, outputs, groups = grouping
    x = random_cloud(inputs, voxels=8, extent=3, batch_size=2)
    features = x.features.requires_grad_()
    weight = random_weight((outputs, 2, 3, 1, inputs // groups)).requires_grad_()
    bias = random_weight((outputs,)).requires_grad_()
    window = make_window((2, 3, 1), stride)

    def convolved(features, weight, bias):
        return sparse_convolution(x.derive(features), weight, bias, window, groups).features

    assert gradcheck(convolved, (features, weight, bias))


@pytest.mark.parametrize("path", ["numba", "torch"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (2, 1, 1)], ids=str)
@BY_NAME
def test_gradients_equal_those_of_the_dense_convolution(grouping, stride, path, monkeypatch):
    if path == "torch":
        force_torch_path(monkeypatch)
    inputs, outputs, groups = grouping
    x = random_cloud(inputs, voxels=150)
    window = make_window((3, 3, 2), stride)
    leaves = [x.features, random_weight((outputs, 3, 3, 2, inputs // groups)), random_weight((outputs,))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = sparse_convolution(x.derive(leaves[0]), leaves[1], leaves[2], window, groups)
    expected = dense_convolution(leaves[0], x.coords, out.coords, leaves[1], leaves[2], window, groups)
    upstream = random_weight(out.features.shape, seed=11)
    assert relative_error(out.features.detach(), expected.detach()) < 1e-12
    found = torch.autograd.grad(out.features, leaves, upstream)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    for gradient, reference in zip(found, wanted, strict=True):
        assert relative_error(gradient, reference) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@BY_NAME
def test_torch_path_gives_what_the_numba_path_gives(grouping, dtype, stride, monkeypatch):
    def run():
        x = random_cloud(grouping[0], voxels=200, dtype=dtype)
        layer = make_layer(grouping, 3, stride, dtype=dtype)
        features = x.features.requires_grad_()
        out = layer(x.derive(features))
        return [out.features, *torch.autograd.grad(out.features.square().sum(), [features, layer.weight, layer.bias])]

    by_numba = run()
    force_torch_path(monkeypatch)
    by_torch = run()
    for found, expected in zip(by_torch, by_numba, strict=True):
        assert relative_error(found.detach(), expected.detach()) < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("voxels", [1, 5, 40, 700])
@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"),
    [
        (1, 1, 1),
        (3, 32, 1),
        (7, 15, 1),
        (16, 17, 1),
        (33, 6, 1),
        (300, 20, 1),
        (200, 176, 1),
        (20, 300, 1),
        (48, 48, 3),
        (34, 10, 2),
        (64, 128, 16),
    ],
)
@pytest.mark.parametrize("rows", ["few", "many"])
def test_matrix_kernels_fit_any_number_of_rows_and_channels(rows, inputs, outputs, groups, voxels, dtype, monkeypatch):
    monkeypatch.setattr(numba_engine, "_ROWS_A_CHANNEL", 10**6 if rows == "few" else 0)
    x = random_cloud(inputs, voxels=voxels, extent=8, dtype=dtype)
    window = make_window((3, 1, 3))
    leaves = [x.features, random_weight((outputs, 3, 1, 3, inputs // groups), dtype=dtype)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = sparse_convolution(x.derive(leaves[0]), leaves[1], None, window, groups).features
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = dense_convolution(exact[0], x.coords, x.coords, exact[1], None, window, groups)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    assert relative_error(out, expected) < tolerance
    upstream = random_weight(out.shape, seed=11)
    found = torch.autograd.grad(out, leaves, upstream.to(dtype))
    for gradient, reference in zip(found, torch.autograd.grad(expected, exact, upstream), strict=True):
        assert relative_error(gradient, reference) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kept", ["all", "plane", "none"])
@pytest.mark.parametrize("channels", [1, 9, 16, 31, 48, 112, 136, 250])
def test_depthwise_kernels_fit_any_number_of_channels_and_of_taps_of_zeros(channels, kept, dtype):
    window, x = make_window((3, 3, 3)), random_cloud(channels, voxels=300, extent=9)
    weight = random_weight((channels, 3, 3, 3, 1))
    weight[:, [z for z in range(3) if kept == "none" or (kept == "plane" and z != 1)]] = 0
    upstream = torch.randn(x.features.shape, generator=seeded(3), dtype=torch.float64)
    _, _, kmap = kernel_maps.window_sites(x.cache, x.coords, None, window)
    results = []
    for precision, path in ((dtype, convolution.convolve), (torch.float64, by_table)):
        features, taps = (t.detach().to(precision).requires_grad_() for t in (x.features, weight))
        out = path(features, taps, kmap, channels)
        results.append([out, *torch.autograd.grad(out, [features, taps], upstream.to(precision))])
    for found, exact in zip(*results, strict=True):
        assert (found.double() - exact).abs().max() <= (1e-12 if dtype == torch.float64 else 1e-5) * (exact.abs().max() + 1)


def by_table(features, weight, kmap, groups):
    padded = torch.cat([features, features.new_zeros(1, groups)])  # row -1 reads zeros
    return (padded[kmap.table.long()] * weight.flatten(1, 3).squeeze(2).t()[kmap.taps][:, None]).sum(0)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("grouping", [GROUPINGS["dense"], GROUPINGS["two groups"]], ids=["dense", "two groups"])
def test_frozen_weight_that_repeats_along_an_axis_is_summed_there_first(grouping, axis, stride, monkeypatch):
    inputs, outputs, groups = grouping
    kernel = [2, 3, 3]
    kernel[axis] = 1
    length = [1, 1, 1, 1, 1]
    length[1 + axis] = 3
    weight = random_weight((outputs, *kernel, inputs // groups)).repeat(length)
    window = make_window(tuple(weight.shape[1:4]), stride)
    x = random_cloud(inputs, voxels=150)
    features = x.features.requires_grad_()
    monkeypatch.setattr(numba_engine, "_SUM_COST", 0)  # pays even for these few channels
    sums = spy(monkeypatch, NumbaDepthwise, "forward")
    out = sparse_convolution(x.derive(features), weight, None, window, groups)
    assert sums, "summed along the axis"
    expected = dense_convolution(features, x.coords, out.coords, weight, None, window, groups)
    assert relative_error(out.features, expected) < 1e-12
    upstream = random_weight(out.features.shape, seed=11)
    found, wanted = (torch.autograd.grad(result, features, upstream)[0] for result in (out.features, expected))
    assert relative_error(found, wanted) < 1e-12


@pytest.mark.parametrize("change", ["trained", "one value"])
def test_weight_that_is_trained_or_does_not_repeat_is_used_tap_by_tap(change, monkeypatch):
    weight = random_weight((4, 1, 3, 3, 3)).repeat(1, 3, 1, 1, 1)
    if change == "trained":
        weight.requires_grad_()
    else:
        weight[3, 2, 2, 2, 2] += 1e-9
    monkeypatch.setattr(numba_engine, "_SUM_COST", 0)
    sums = spy(monkeypatch, NumbaDepthwise, "forward")
    sparse_convolution(random_cloud(3, voxels=150), weight, None, make_window((3, 3, 3)))
    assert not sums


@pytest.mark.parametrize("rows", ["few", "many"])
@pytest.mark.parametrize("grouping", [GROUPINGS["dense"], GROUPINGS["two groups"], GROUPINGS["depthwise"]], ids=str)
def test_taps_of_zeros_are_not_even_read(grouping, rows, monkeypatch):
    monkeypatch.setattr(numba_engine, "_ROWS_A_CHANNEL", 10**6 if rows == "few" else 0)
    inputs, outputs, groups = grouping
    x = random_cloud(inputs, voxels=150)
    weight = random_weight((outputs, 3, 3, 3, inputs // groups))
    weight[:, (0, 2)] = 0  # as "center" leaves it
    features = x.features.clone()
    off_plane = x.coords[:, 1] != 0
    features[off_plane] = torch.nan
    out = sparse_convolution(x.derive(features), weight, None, make_window((3, 3, 3)), groups)
    expected = dense_convolution(x.features, x.coords, x.coords, weight, None, make_window((3, 3, 3)), groups)
    assert relative_error(out.features[~off_plane], expected[~off_plane]) < 1e-12


def test_trained_taps_of_zeros_still_get_their_gradient():
    x = random_cloud(3, voxels=150)
    weight = random_weight((4, 3, 3, 3, 3))
    weight[:, (0, 2)] = 0
    weight.requires_grad_()
    out = sparse_convolution(x, weight, None, make_window((3, 3, 3))).features
    expected = dense_convolution(x.features, x.coords, x.coords, weight, None, make_window((3, 3, 3)), 1)
    upstream = random_weight(out.shape, seed=11)
    found, wanted = (torch.autograd.grad(result, weight, upstream)[0] for result in (out, expected))
    assert relative_error(found, wanted) < 1e-12
    assert found[:, 0].abs().sum() > 0


@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.one_of(st.just((1, 1, 1)), st.tuples(*[st.integers(1, 3)] * 3)),
    dilation=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.one_of(st.none(), st.tuples(*[st.integers(0, 3)] * 3)),
    voxels=st.integers(1, 50),
    low=st.integers(-9, 3),
    shuffle=st.booleans(),
    seed=st.integers(0, 100),
)
@property_test
def test_both_ways_of_building_a_kernel_map_agree(kernel, stride, dilation, padding, voxels, low, shuffle, seed):
    coords = random_cloud(1, voxels=voxels, extent=5, low=low, seed=seed).coords
    if shuffle:
        coords = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(seed))].contiguous()
    out = coords if stride == (1, 1, 1) else torch.tensor(strided_sites(coords, stride), dtype=torch.int32)
    arguments = (SiteCache(), coords, out, make_window(kernel, stride, dilation, padding))
    table, counts = kernel_maps.build_table(*arguments)
    assert torch.equal(table, search_table(*arguments))
    assert torch.equal(counts, (table >= 0).sum(1))


def spy(monkeypatch, owner, name):
    calls = []
    original = getattr(owner, name)

    def called(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)
    return calls


@BOTH_ENGINES
def test_frozen_weight_gets_no_gradient_and_costs_none(name, engine, monkeypatch):
    calls = spy(monkeypatch, engine, "weight_gradient")
    layer = make_layer(GROUPINGS[name], 3)
    x = random_cloud(GROUPINGS[name][0])
    features = x.features.requires_grad_()
    layer(x.derive(features)).features.sum().backward()
    assert calls, "the spy sees the weight gradient of a trained layer"
    assert layer.weight.grad is not None
    trained = features.grad.clone()
    calls.clear()
    layer.weight.grad = features.grad = None
    layer.weight.requires_grad_(False)
    layer(x.derive(features)).features.sum().backward()
    assert not calls
    assert layer.weight.grad is None
    assert torch.equal(features.grad, trained)


@BOTH_ENGINES
def test_features_that_need_no_gradient_cost_none(name, engine, monkeypatch):
    calls = spy(monkeypatch, engine, "input_gradient")
    layer = make_layer(GROUPINGS[name], 3)
    x = random_cloud(GROUPINGS[name][0])
    layer(x.derive(x.features.clone().requires_grad_())).features.sum().backward()
    assert calls, "the spy sees the gradient of features that need one"
    calls.clear()
    layer.weight.grad = None
    layer(x).features.sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert not calls


@pytest.mark.parametrize("stride", [1, 2])
@BY_NAME
def test_repeated_runs_give_the_same_bits(grouping, stride):
    def run():
        x = random_cloud(grouping[0], voxels=1500, extent=12, dtype=torch.float32)
        layer = make_layer(grouping, 3, stride, dtype=torch.float32)
        features = x.features.requires_grad_()
        out = layer(x.derive(features))
        return [out.features, *torch.autograd.grad(out.features.square().sum(), [features, layer.weight, layer.bias])]

    first = run()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


@pytest.mark.parametrize("name", ["dense", "depthwise"])
def test_thread_count_changes_no_more_than_rounding(name):
    grouping = GROUPINGS[name]
    x = random_cloud(grouping[0], voxels=1500, extent=12)
    layer = make_layer(grouping, 3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = layer(x)
            results.append([out.features.detach(), torch.autograd.grad(out.features.square().sum(), layer.weight)[0]])
    finally:
        torch.set_num_threads(before)
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
def test_layer_whose_map_reads_some_taps_only_still_has_a_full_weight_gradient(stride):
    coords = torch.tensor([[0, 0, 0, 0], [0, 10, 10, 10]], dtype=torch.int32)
    for grouping in (GROUPINGS["dense"], GROUPINGS["depthwise"]):
        layer = make_layer(grouping, 3, stride)
        out = layer(SparseTensor(random_weight((2, grouping[0])), coords))
        out.features.sum().backward()
        assert layer.weight.grad[:, 1, 1, 1].abs().min() > 0
        layer.weight.grad[:, 1, 1, 1] = 0
        assert layer.weight.grad.abs().max() == 0


@pytest.mark.parametrize("name", ["dense", "two groups", "depthwise"])
def test_wrong_channels_are_quoted(name):
    layer = make_layer(GROUPINGS[name], 3)
    right = GROUPINGS[name][0]
    with pytest.raises(InvalidInputError, match=rf"\({right + 1},\).*takes {right} channels"):
        layer(random_cloud(right + 1))


def test_wrong_dtype_is_quoted():
    layer = make_layer(GROUPINGS["dense"], 3, dtype=torch.float32)
    with pytest.raises(InvalidInputError, match=r"torch\.float64.*torch\.float32"):
        layer(random_cloud(3, dtype=torch.float64))


def test_one_by_one_layer_checks_channels_too():
    with pytest.raises(InvalidInputError, match="takes 3 channels"):
        make_layer(GROUPINGS["dense"], 1)(random_cloud(5))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@BY_NAME
def test_cpu_autocast_to_bfloat16_is_near_float32(grouping, kernel, stride):
    layer = make_layer(grouping, kernel, stride, dtype=torch.float32)
    x = random_cloud(grouping[0], voxels=100, dtype=torch.float32)
    exact = layer(x).features
    exact_gradient = torch.autograd.grad(exact.square().sum(), layer.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x).features
    gradient = torch.autograd.grad(rough.float().square().sum(), layer.weight)[0]
    assert rough.dtype == torch.bfloat16
    assert gradient.dtype == torch.float32
    assert relative_error(rough.detach(), exact.detach()) < 2e-2
    assert relative_error(gradient, exact_gradient) < 4e-2


def test_kernel_map_is_built_once_for_layers_that_share_a_geometry(monkeypatch):
    built = []
    original = kernel_maps.build_table
    monkeypatch.setattr(kernel_maps, "build_table", lambda *a: built.append(a) or original(*a))
    x = random_cloud(4)
    for grouping in (GROUPINGS["two groups"], GROUPINGS["depthwise"], (4, 2, 1)):
        make_layer(grouping, 3)(x)
    assert len(built) == 1
    make_layer((4, 2, 1), 5)(x)
    assert len(built) == 2
