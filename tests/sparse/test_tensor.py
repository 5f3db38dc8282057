"""SparseTensor: what it takes and refuses, its views and conversions, copies, and how torch functions reach it."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo import I2PError, InvalidInputError, SparseConv3d, SparseTensor, UnsupportedError, image_to_plane
from i2p_zoo.sparse.tensor import UNBOUNDED
from tests.helpers import random_cloud, random_images, seeded

COORDS = torch.tensor([[0, 1, 2, 3], [1, -1, 0, 4], [0, 0, 0, 0]])
FEATURES = torch.arange(6.0).view(3, 2)


@pytest.fixture(scope="module")
def spconv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports use what Python and torch deprecate
        import spconv.pytorch
    return spconv.pytorch


def sparse(**changes):
    return SparseTensor(**{"features": FEATURES, "coords": COORDS, **changes})


def make_layer(channels=2, kernel=3, stride=1):
    layer = SparseConv3d(channels, 3, kernel, stride, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=seeded(7), dtype=torch.float64))
    return layer


def test_attributes_are_what_was_given():
    x = sparse(stride=(1, 2, 2), batch_size=4)
    assert torch.equal(x.features, FEATURES)
    assert torch.equal(x.coords, COORDS.int())
    assert (x.stride, x.batch_size, x.spatial_shape) == ((1, 2, 2), 4, None)
    assert (len(x), x.dtype, x.device, x.requires_grad, x.is_cuda) == (4, torch.float32, torch.device("cpu"), False, False)


def test_one_voxel_is_a_tensor_and_a_layer_gives_its_middle_tap():
    x = SparseTensor(torch.ones(1, 2).double(), torch.tensor([[0, -5, 9, 2]]))
    layer = make_layer()
    assert torch.allclose(layer(x).features[0], layer.weight[:, 1, 1, 1].sum(1))


def test_batch_ids_in_any_order_are_counted_right():
    x = SparseTensor(torch.ones(4, 1), torch.tensor([[2, 0, 0, 0], [0, 0, 0, 0], [2, 1, 1, 1], [0, 0, 0, 1]]), batch_size=4)
    assert x.batch_rows.tolist() == [2, 0, 2, 0]
    assert x.sample_counts.tolist() == [2, 0, 2, 0]


def test_non_contiguous_features_and_coords_mean_what_they_show():
    x = random_cloud(2, voxels=50)
    features = torch.stack([x.features, x.features + 9], 1)[:, 0].t().contiguous().t()
    coords = x.coords.t().contiguous().t()
    assert not features.is_contiguous()
    assert not coords.is_contiguous()
    layer = make_layer(stride=2)
    expected = layer(SparseTensor(x.features.clone(), x.coords.clone()))
    found = layer(SparseTensor(features, coords))
    assert torch.equal(found.coords, expected.coords)
    assert torch.allclose(found.features, expected.features, rtol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES[:2]}, "`features` has 2 rows and `coords` 3"),
        ({"features": FEATURES[:, 0]}, r"\(N, C\) tensor; got \(3,\)"),
        ({"features": FEATURES.tolist()}, "got list"),
        ({"features": FEATURES.numpy()}, "got ndarray"),
        ({"features": FEATURES.int()}, r"got torch\.int32.*\.float\(\)"),
        ({"features": FEATURES.bool()}, r"got torch\.bool"),
        ({"features": FEATURES.to(torch.complex64)}, r"got torch\.complex64"),
        ({"coords": COORDS.float()}, r"got torch\.float32"),
        ({"coords": COORDS.numpy()}, "got ndarray"),
        ({"coords": COORDS[:, :3]}, r"got \(3, 3\)"),
        ({"features": FEATURES[:0], "coords": COORDS[:0]}, "at least one voxel"),
        ({"batch_size": 1}, r"`batch_size` \(=1\).*\(=1\)"),
        ({"spatial_shape": (9, 9, 9)}, r"along z run from -1 to 1.*\(9, 9, 9\)"),
        ({"spatial_shape": (9, 9)}, r"`spatial_shape`.*got \(9, 9\)"),
        ({"spatial_shape": (9, 0, 9)}, r"got \(9, 0, 9\)"),
        ({"spatial_shape": (9, 9.5, 9)}, r"got \(9, 9\.5, 9\)"),
        ({"stride": 0}, "`stride`.*got 0"),
        ({"stride": -2}, "`stride`.*got -2"),
        ({"stride": (1, 2)}, r"`stride`.*got \(1, 2\)"),
        ({"stride": True}, "`stride`.*got True"),
    ],
    ids=str,
)
def test_bad_arguments_are_quoted(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        sparse(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 2.5}, r"`stride`.*got 2\.5"),
        ({"stride": "abc"}, "`stride`.*got 'abc'"),
        ({"stride": float("nan")}, "`stride`.*got nan"),
        ({"spatial_shape": (9, float("nan"), 9)}, r"`spatial_shape`.*got \(9, nan, 9\)"),
        ({"batch_size": 2.5}, r"`batch_size`.*2\.5"),
        ({"batch_size": "2"}, "`batch_size`.*'?2"),
    ],
    ids=str,
)
def test_numbers_that_are_no_whole_numbers_are_quoted(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        sparse(**changes)


def test_a_numpy_integer_is_a_stride_and_a_batch_size():
    x = sparse(stride=np.int64(2), batch_size=np.int64(3))
    assert (x.stride, x.batch_size, x.sample_counts.tolist()) == (2, 3, [2, 1, 0])


@pytest.mark.parametrize("on_meta", ["features", "coords"])
def test_features_and_coords_on_two_devices_are_quoted(on_meta):
    given = {"features": FEATURES, "coords": COORDS}
    given[on_meta] = given[on_meta].to("meta")
    with pytest.raises(InvalidInputError, match=r"(meta.*cpu|cpu.*meta)"):
        SparseTensor(**given)


def test_shape_is_what_a_2d_network_sees():
    x = image_to_plane(torch.zeros(2, 3, 4, 5))
    assert x.shape == tuple(x.size()) == (2, 3, 4, 5)
    assert (x.size(-1), x.size(1), x.dim(), x.ndim) == (5, 3, 4, 4)
    assert image_to_plane(torch.zeros(2, 3, 4, 5), "x").shape == (2, 3, 4, 5)
    assert sparse().shape == (2, 2, UNBOUNDED, UNBOUNDED)
    assert x.derive(torch.zeros(40, 6, 7)).shape == (2, 6, 7, 4, 5)


@pytest.mark.parametrize("bordered", [False, True], ids=["cloud", "spatial_shape"])
def test_dense_puts_each_voxel_at_its_place(bordered):
    x = random_cloud(3, voxels=20, extent=4, low=1 if bordered else -6, spatial_shape=(5, 6, 7) if bordered else None)
    origin = (0, 0, 0) if bordered else x.coords[:, 1:].min(0).values.tolist()
    dense = x.dense()
    extents = (5, 6, 7) if bordered else tuple((x.coords[:, 1:].max(0).values - x.coords[:, 1:].min(0).values + 1).tolist())
    assert tuple(dense.shape) == (2, 3, *extents)
    for feature, (b, *site) in zip(x.features, x.coords.tolist(), strict=True):
        z, y, x_ = (c - low for c, low in zip(site, origin, strict=True))
        assert torch.equal(dense[b, :, z, y, x_], feature)
    assert (dense != 0).any(1).sum() == len(x.coords)


def test_gradients_flow_through_dense():
    x = random_cloud(2, voxels=10)
    features = x.features.requires_grad_()
    x.derive(features).dense().square().sum().backward()
    assert torch.allclose(features.grad, 2 * features.detach())


def test_from_dense_is_the_inverse_of_dense():
    x = random_cloud(2, voxels=30, extent=4, low=0, spatial_shape=(4, 5, 6))
    back = SparseTensor.from_dense(x.dense())
    assert (back.batch_size, back.spatial_shape, len(back.coords)) == (2, (4, 5, 6), len(x.coords))
    assert torch.equal(back.dense(), x.dense())


def test_from_dense_keeps_zeros_only_when_told():
    volume = torch.zeros(2, 3, 1, 2, 2)
    volume[1, 2, 0, 1, 0] = 3  # one channel that is not zero keeps its voxel
    assert SparseTensor.from_dense(volume).coords.tolist() == [[1, 0, 1, 0]]
    assert SparseTensor.from_dense(volume).features.tolist() == [[0, 0, 3]]
    assert SparseTensor.from_dense(volume).batch_size == 2
    assert len(SparseTensor.from_dense(volume, keep_zeros=True).coords) == 8


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (torch.zeros(1, 1, 2, 2), r"\(B, C, Z, Y, X\); got shape \(1, 1, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2, 2), "at least one voxel"),
        (torch.ones(1, 1, 2, 2, 2).int(), r"got torch\.int32"),
    ],
)
def test_volumes_that_are_none_are_quoted(volume, message):
    with pytest.raises(InvalidInputError, match=message):
        SparseTensor.from_dense(volume)


def test_spconv_round_trip_keeps_features_and_sites(spconv):
    x = random_cloud(3, voxels=20, extent=4, low=1, dtype=torch.float32)
    theirs = x.to_spconv()
    assert isinstance(theirs, spconv.SparseConvTensor)
    assert theirs.batch_size == 2
    assert list(theirs.spatial_shape) == (x.coords[:, 1:].max(0).values + 1).tolist()
    assert torch.equal(theirs.indices, x.coords)
    assert torch.equal(theirs.features, x.features)
    back = SparseTensor.from_spconv(theirs, stride=2)
    assert (back.stride, back.batch_size, back.spatial_shape) == (2, 2, None)
    assert torch.equal(back.coords, x.coords)
    assert torch.equal(back.features, x.features)


def test_spatial_shape_is_spconvs_too(spconv):
    x = random_cloud(3, voxels=5, extent=3, low=0, dtype=torch.float32, spatial_shape=(3, 8, 9))
    assert list(x.to_spconv().spatial_shape) == [3, 8, 9]


def test_spconv_gets_no_negative_coordinates(spconv):
    with pytest.raises(InvalidInputError, match=r"negative.*\[-1, 0, 0\]"):
        sparse().to_spconv()


@pytest.mark.parametrize(
    ("move", "dtype"),
    [
        (lambda x: x.half(), torch.float16),
        (lambda x: x.double(), torch.float64),
        (lambda x: x.float(), torch.float32),
        (lambda x: x.to(torch.bfloat16), torch.bfloat16),
        (lambda x: x.to(dtype=torch.float64), torch.float64),
        (lambda x: x.to("cpu", torch.float64), torch.float64),
    ],
)
def test_a_cast_changes_the_features_only(move, dtype):
    x = sparse()
    moved = move(x)
    assert moved.dtype == moved.features.dtype == dtype
    assert moved.coords is x.coords
    assert torch.equal(moved.features, x.features.to(dtype))


def test_a_move_that_changes_nothing_gives_the_same_object():
    x = sparse()
    assert x.to("cpu") is x
    assert x.cpu() is x
    assert x.float() is x


def test_a_move_to_another_device_takes_the_coordinates_along():
    x = sparse(stride=2, batch_size=3)
    moved = x.to("meta")
    assert moved.features.device.type == moved.coords.device.type == "meta"
    assert moved.coords.dtype == torch.int32
    assert (moved.stride, moved.batch_size) == (2, 3)
    assert moved.cache is not x.cache
    assert x.coords.device.type == "cpu"


def test_detach_cuts_the_graph_and_keeps_the_sites():
    x = sparse(features=FEATURES.clone().requires_grad_())
    assert x.requires_grad
    assert not x.detach().requires_grad
    assert x.detach().coords is x.coords


def test_new_tensors_have_its_dtype():
    x = sparse().double()
    assert x.new_zeros(2, 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert x.new_zeros(2).dtype == x.new_empty((2, 3)).dtype == torch.float64
    assert tuple(x.new_empty((2, 3)).shape) == (2, 3)


def test_repr_tells_voxels_features_and_extent():
    text = repr(image_to_plane(torch.zeros(2, 3, 4, 5)))
    for part in ("voxels=40", "features=(3,)", "batch_size=2", "spatial_shape=(1, 4, 5)", "torch.float32", "cpu"):
        assert part in text


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("kind", ["cloud", "plane"])
def test_a_copy_of_a_used_tensor_is_computed_on_like_the_original(copied, kind):
    x = random_cloud(2, voxels=60) if kind == "cloud" else image_to_plane(random_images(2, 2, 6, 6), "y")
    layers = [make_layer(), make_layer(stride=2)]
    expected = [F.max_pool2d(layer(x), 2) for layer in layers]
    twin = copied(x)
    del x  # so that new tensors may get the identity of old ones
    for layer, truth in zip(layers, expected, strict=True):
        found = F.max_pool2d(layer(twin), 2)
        assert torch.equal(found.coords, truth.coords)
        assert torch.equal(found.features, truth.features)
        assert (found.spatial_shape, found.plan, found.stride) == (truth.spatial_shape, truth.plan, truth.stride)


def test_a_deep_copy_shares_nothing():
    x = random_cloud(2)
    twin = copy.deepcopy(x)
    twin.features.zero_()
    twin.coords.zero_()
    assert x.features.abs().sum() > 0
    assert x.coords.abs().sum() > 0


def test_a_layers_output_is_pickled_too():
    x = random_cloud(2, voxels=60)
    with torch.no_grad():
        out = make_layer(stride=2)(x)
        back = pickle.loads(pickle.dumps(out))
        expected, found = (make_layer(3)(y) for y in (out, back))
    assert (back.stride, back.plan) == (2, out.plan)
    assert torch.equal(found.features, expected.features)


def test_a_function_without_a_handler_is_named_with_its_arguments_and_the_way_to_add_one():
    x = sparse()
    with pytest.raises(UnsupportedError, match=r"erfinv.*SparseTensor\(2, 2, .*@i2p_zoo\.sparse_op\(.*erfinv\).*: .*relu"):
        torch.erfinv(x)
    with pytest.raises(UnsupportedError, match=r"grid_sample.*Tensor\(1, 2, 2, 2\), mode='nearest'.*sparse_op"):
        F.grid_sample(x, torch.zeros(1, 2, 2, 2), mode="nearest", align_corners=False)
    with pytest.raises(UnsupportedError, match=r"bmm.*SparseTensor"):
        torch.bmm(torch.zeros(1, 2, 2), x)
    with pytest.raises(UnsupportedError, match="matmul"):
        x @ x
    assert issubclass(UnsupportedError, I2PError)


@pytest.mark.parametrize("name", ["erfinv", "data", "no_such_thing"])
def test_an_unknown_attribute_is_an_attribute_error(name):
    x = sparse()
    assert not hasattr(x, name)
    with pytest.raises(AttributeError, match=f"SparseTensor.*'{name}'"):
        getattr(x, name)


@pytest.mark.parametrize("name", [n for n in dir(Tensor) if n.startswith("__") and n.endswith("__")])
def test_no_special_method_of_tensors_falls_through(name):
    # Whatever Python or torch asks for by name must be the class's own, a handler's, or absent, never another error.
    try:
        getattr(sparse(), name)
    except AttributeError:
        return


def test_operators_without_a_handler_are_refused():
    x = sparse()
    for apply in (lambda: x > 0, lambda: x < x, lambda: x <= 1, lambda: float(x), lambda: x // 2, lambda: 2**x, lambda: abs(x)):
        with pytest.raises((TypeError, UnsupportedError)):
            apply()
