"""Voxelisation against numpy.unique, and images laid on planes against their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError, image_to_plane, voxelize
from tests.helpers import property_test, random_images

SPARE = np.random.default_rng(0).normal(size=(5, 3))


def random_points(count, columns=3, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(dtype)


def expected_voxels(clouds, values, voxel_size, reduce):
    """Sites (M, 4), features (M, C) and index (N,) by numpy.unique, in float64."""
    columns = []
    for number, cloud in enumerate(clouds):
        cells = np.floor(np.asarray(cloud, np.float64)[:, :3] / voxel_size).astype(np.int64)
        columns.append(np.column_stack([np.full(len(cells), number), cells[:, ::-1]]))
    sites, first, index, counts = np.unique(
        np.concatenate(columns), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    values = np.concatenate([np.asarray(value, np.float64) for value in values])
    if reduce == "first":
        return sites, values[first], index.reshape(-1)
    sums = np.zeros((len(sites), values.shape[1]))
    np.add.at(sums, index.reshape(-1), values)
    return sites, sums / counts[:, None], index.reshape(-1)


def check(clouds, values, voxel_size, reduce, *, given_clouds=None, features="xyz", tolerance=1e-12):
    x, index = voxelize(
        clouds if given_clouds is None else given_clouds, voxel_size, features, reduce=reduce, return_index=True
    )
    sites, means, rows = expected_voxels(clouds, values, voxel_size, reduce)
    assert x.coords.tolist() == sites.tolist()
    assert index.tolist() == rows.tolist()
    np.testing.assert_allclose(x.features.numpy(), means, rtol=tolerance, atol=tolerance)
    assert (x.batch_size, x.spatial_shape, x.stride) == (len(clouds), None, 1)
    return x


REDUCE = pytest.mark.parametrize("reduce", ["mean", "first"])


@REDUCE
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    voxel_size=st.sampled_from([0.1, 0.5, 1.0, 3.0, 7]),
    seed=st.integers(0, 1000),
)
@property_test
def test_a_list_of_clouds_equals_numpy_unique(reduce, counts, voxel_size, seed):
    clouds = [random_points(count, seed=seed + number) for number, count in enumerate(counts)]
    check(clouds, clouds, voxel_size, reduce)


@REDUCE
@given(cells=st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=30), power=st.integers(-3, 2))
@property_test
def test_points_exactly_on_borders_belong_to_the_voxel_that_begins_there(reduce, cells, power):
    size = 2.0**power  # so that every border is exact
    points = np.array(cells) * size
    x = check([points], [points], size, reduce)
    assert {tuple(site) for site in x.coords[:, 1:].tolist()} == {cell[::-1] for cell in cells}


@pytest.mark.parametrize("kind", ["numpy", "torch", "tuple of clouds", "3-D array", "nested lists"])
def test_a_batch_may_come_in_any_container(kind):
    batch = random_points(24).reshape(2, 12, 3)
    given_clouds = {
        "numpy": list(batch),
        "torch": [torch.from_numpy(cloud) for cloud in batch],
        "tuple of clouds": tuple(batch),
        "3-D array": torch.from_numpy(batch),
        "nested lists": batch.tolist(),
    }[kind]
    check(list(batch), list(batch), 0.5, "mean", given_clouds=given_clouds)


def test_one_cloud_is_a_batch_of_one():
    cloud = random_points(20)
    for given_clouds in (cloud, torch.from_numpy(cloud), [cloud], {"points": cloud}, [{"points": cloud}], cloud[None]):
        check([cloud], [cloud], 0.5, "mean", given_clouds=given_clouds)


def test_one_point_is_a_cloud():
    x = voxelize(np.array([[-0.01, 0.26, 0.1]]), 0.1)
    assert x.coords.tolist() == [[0, 1, 2, -1]]
    assert x.features.tolist() == [[-0.01, 0.26, 0.1]]


def test_columns_x_y_z_become_coordinates_z_y_x():
    x = voxelize(torch.tensor([[1.5, 2.5, 3.5]]), 1.0)
    assert x.coords.tolist() == [[0, 3, 2, 1]]
    assert x.features.tolist() == [[1.5, 2.5, 3.5]]


def test_the_first_point_is_the_first_in_the_clouds_order():
    points = torch.tensor([[0.9, 0.9, 0.9], [5.5, 5.5, 5.5], [0.1, 0.2, 0.3], [5.1, 5.1, 5.1]])
    x = voxelize(points, 1.0, reduce="first")
    assert torch.equal(x.features, points[:2])


@pytest.mark.parametrize(
    ("dtype", "result"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int64", "float32"), ("uint8", "float32")],
)
def test_points_of_any_real_dtype_fall_in_the_voxels_of_their_exact_values(dtype, result):
    points = (random_points(50) * 20).clip(0 if dtype == "uint8" else -np.inf).astype(dtype)
    if dtype == "float16":  # else some lie on a border but for its rounding
        points = (np.floor(points) * 0.3 + 0.1).astype(dtype)
    x = check([points], [points], 0.3, "mean", tolerance=1e-12 if result == "float64" else 1e-5)
    assert str(x.dtype) == f"torch.{result}"
    assert x.coords.dtype == torch.int32


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_large_integers_are_not_rounded_to_single_precision(kind):
    points = np.array([[500_000_001, 0, 0], [500_000_002, 0, 0], [500_000_033, 0, 0]], kind)
    assert voxelize(points, 1, "ones").coords[:, 3].tolist() == points[:, 0].tolist()


def test_the_mean_of_very_many_points_lies_among_them():
    points = torch.rand((200_000, 3)) + 1000
    x = voxelize(points, 10_000.0)
    assert torch.allclose(x.features[0], points.double().mean(0).float(), rtol=1e-6)


@pytest.mark.parametrize("layout", ["reversed", "columns", "Fortran", "read-only", "torch view"])
def test_arrays_of_any_layout_mean_what_they_show(layout):
    points = random_points(30)
    read_only = points.copy()
    read_only.flags.writeable = False
    given_clouds = {
        "reversed": points[::-1].copy()[::-1],
        "columns": np.repeat(points, 2, axis=1)[:, ::2],
        "Fortran": np.asfortranarray(points),
        "read-only": read_only,
        "torch view": torch.from_numpy(points).t().contiguous().t(),
    }[layout]
    check([points], [points], 0.5, "mean", given_clouds=given_clouds)


def test_the_given_array_is_left_as_it_was_and_not_shared():
    points = random_points(5, dtype=np.float32)
    before = points.copy()
    x = voxelize(points, 1e-3)
    x.features.add_(1)
    assert np.array_equal(points, before)


def test_gradients_flow_to_the_points():
    points = torch.from_numpy(random_points(10)).requires_grad_()
    x = voxelize(points, 0.5)
    x.features.sum().backward()
    assert torch.allclose(points.grad.sum(), torch.tensor(3.0 * len(x.coords), dtype=torch.float64))


@REDUCE
def test_named_features_stand_side_by_side_in_the_order_named(reduce):
    points, normals = random_points(40, 5), random_points(40, seed=1)
    rgb = np.random.default_rng(2).integers(0, 256, (40, 3)).astype(np.uint8)
    cloud = {"points": points, "rgb": rgb, "normals": normals}
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    values = np.column_stack([unit, rgb / 255, np.ones(40), points[:, :3], points[:, 3:]])
    for names in (["normals", "rgb", "ones", "xyz", "extra"], "normals,rgb, ones ,xyz,extra"):
        check([points], [values], 0.7, reduce, given_clouds=cloud, features=names, tolerance=1e-6)


@REDUCE
def test_given_feature_values_are_reduced(reduce):
    clouds = [random_points(30), random_points(20, seed=1)]
    values = [random_points(30, 2, seed=2), random_points(20, 2, seed=3)]
    check(clouds, values, 0.8, reduce, features=values)
    check(clouds[:1], values[:1], 0.8, reduce, given_clouds=clouds[0], features=torch.from_numpy(values[0]))
    batch, both = np.stack([clouds[1], clouds[1] + 1]), np.stack([values[1], values[1] * 2])
    check(list(batch), list(both), 0.8, reduce, given_clouds=batch, features=both)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("size", [0.05, 0.1, 0.07, 0.3])
def test_points_at_the_pitch_of_the_voxels_keep_a_voxel_each(dtype, size):
    """As a depth image or a cloud of voxels' corners has them: k * 0.05 is seldom the border k of voxels of 0.05."""
    reach = 100 if dtype == "float16" else 3000
    cells = np.arange(-reach, reach)
    in_type = (cells.astype(dtype) * np.dtype(dtype).type(size)).astype(dtype)
    for line in ((cells * size).astype(dtype), in_type, np.round(cells * size, 2).astype(dtype)):
        points = np.column_stack([line, np.zeros_like(line), np.zeros_like(line)])
        assert voxelize(points, size).coords[:, 3].tolist() == cells.tolist()


def test_a_point_below_a_border_by_more_than_its_rounding_lies_below():
    assert voxelize(np.array([[0.15 * (1 - 1e-14), 0, 0]]), 0.05).coords[0, 3] == 2
    assert voxelize(np.array([[0.15 * (1 - 1e-6), 0, 0]], np.float32), 0.05).coords[0, 3] == 2


def test_a_single_precision_voxel_size_means_what_it_shows():
    cells = np.arange(500)
    points = np.column_stack([cells * 0.05, cells * 0, cells * 0])
    assert voxelize(points, np.float32(0.05)).coords[:, 3].tolist() == cells.tolist()


UTM = np.random.default_rng(4).uniform(0, 5, (50, 3)) + np.array([500_000, 5_400_000, 300])
REFUSED_PLACES = {
    "UTM": (UTM, 0.05, "xyz", r"lies 5\d+.* from the origin.*are no features.*points - points\.mean\(0\)"),
    "UTM in large voxels": (UTM, 1.0, "xyz,ones", "are no features"),
    "UTM beside colours": ({"points": UTM, "rgb": np.zeros((50, 3))}, 0.5, "rgb,xyz", "are no features"),
    "one cloud of two": ([UTM - UTM.mean(0), UTM], 0.05, "xyz", "Cloud 1 lies"),
    "UTM in single precision": (UTM.astype(np.float32), 0.05, "ones", r"float32 has steps of 0\.5.*have merged.*float64"),
    "hundreds in half precision": ((UTM - UTM.min(0) + 300).astype(np.float16), 0.05, "ones", r"float16 has steps of 0\.25"),
    "degrees": (UTM[:, [0, 1, 2]] * 1e-8 + np.array([11, 48, 0]), 1e-6, "xyz", "are no features"),
}


@pytest.mark.parametrize(("points", "size", "features", "message"), REFUSED_PLACES.values(), ids=REFUSED_PLACES)
def test_clouds_far_from_the_origin_are_refused_with_the_way_out(points, size, features, message):
    with pytest.raises(InvalidInputError, match=message):
        voxelize(points, size, features)


def test_where_a_cloud_lies_is_kept_to_its_double():
    x = voxelize(UTM, 0.05, "ones")
    assert x.coords.tolist() == expected_voxels([UTM], [UTM], 0.05, "mean")[0].tolist()
    check([UTM - UTM.mean(0)], [UTM - UTM.mean(0)], 0.05, "mean")


@pytest.mark.parametrize(
    "points",
    [UTM - UTM.mean(0) + 40, np.random.default_rng(0).uniform(0, 6000, (40, 3)), np.array([[3000.0, 1, 2]])],
    ids=["a room in its building", "kilometres from their corner", "one point"],
)
def test_coordinates_of_their_own_frame_stay_features(points):
    check([points], [points], 0.05, "mean")


def masked(array, where=(0, 0)):
    mask = np.zeros(array.shape, bool)
    mask[where] = True
    return np.ma.array(array, mask=mask)


@pytest.mark.parametrize(
    ("points", "features", "message"),
    [
        (masked(SPARE), "xyz", "`points` of cloud 0 has 1 masked values.*Leave those points out"),
        ([SPARE, masked(SPARE, 1)], "xyz", "`points` of cloud 1 has 3 masked"),
        (masked(np.stack([SPARE, SPARE]), (1, 2)), "xyz", "`points` of cloud 1 has 3 masked"),
        ({"points": SPARE, "rgb": masked(np.zeros((5, 3), np.uint8))}, "rgb", "`rgb` of cloud 0 has 1 masked"),
        ({"points": SPARE, "normals": masked(SPARE)}, "xyz", "`normals` of cloud 0"),
        (SPARE, masked(SPARE), "`features` of cloud 0 has 1 masked"),
    ],
)
def test_masked_values_are_never_unmasked(points, features, message):
    with pytest.raises(InvalidInputError, match=message):
        voxelize(points, 0.5, features)


def test_a_mask_of_nothing_hides_nothing():
    check([SPARE], [SPARE], 0.5, "mean", given_clouds=np.ma.array(SPARE))
    check([SPARE], [SPARE], 0.5, "mean", given_clouds=np.ma.array(SPARE, mask=np.zeros((5, 3), bool)))


NORMALS = SPARE / np.linalg.norm(SPARE, axis=1, keepdims=True)
ANY_NORMALS = {
    "unit": (NORMALS, 1e-6),
    "of faces' areas": (NORMALS * np.array([[1e-5], [2], [30], [0.1], [1]]), 1e-6),
    "int8": (np.round(NORMALS * 127).astype(np.int8), 1e-2),
    "int16": (np.round(NORMALS * 32767).astype(np.int16), 1e-4),
    "float16": (NORMALS.astype(np.float16), 2e-3),
}


@pytest.mark.parametrize(("normals", "tolerance"), ANY_NORMALS.values(), ids=ANY_NORMALS)
def test_normals_are_directions_whatever_their_type_and_length(normals, tolerance):
    x, index = voxelize({"points": SPARE, "normals": normals}, 1e-3, "normals", return_index=True)
    np.testing.assert_allclose(x.features[index], NORMALS, atol=tolerance)


def test_no_normal_stays_none_and_an_unsigned_one_is_refused():
    assert not voxelize({"points": SPARE, "normals": SPARE * 0}, 1e-3, "normals").features.any()
    with pytest.raises(InvalidInputError, match=r"`normals` of cloud 0 are torch\.uint8, which holds no direction below 0"):
        voxelize({"points": SPARE, "normals": np.ones((5, 3), np.uint8)}, 0.1, "normals")


@pytest.mark.parametrize("columns", [(), (1,)], ids=["(N,)", "(N, 1)"])
def test_intensity_and_fields_are_features_as_they_are(columns):
    intensity, returns = np.array([0, 7, 65535, 3, 1], np.uint16), np.array([1, 2, 1, 3, 1], np.uint8)
    cloud = {
        "points": SPARE,
        "intensity": intensity.reshape(5, *columns),
        "field:return_number": returns.reshape(5, *columns),
        "field:not read": returns,
    }
    x, index = voxelize(cloud, 1e-3, "field:return_number, ones,intensity", return_index=True)
    assert x.features[index].tolist() == [[r, 1, i] for r, i in zip(returns, intensity, strict=True)]


@pytest.mark.parametrize(
    ("cloud", "features", "message"),
    [
        ({"points": SPARE}, "intensity", "'intensity' of cloud 0.*mapping"),
        ({"points": SPARE, "field:a": np.ones(5)}, "field:b", "'field:b' of cloud 0"),
        ({"points": SPARE, "field:a": np.ones((5, 3))}, "field:a", r"`field:a` of cloud 0 must be \(5, 1\); got \(5, 3\)"),
        ({"points": SPARE, "intensity": np.ones(4)}, "xyz", r"must be \(5, 1\); got \(4, 1\)"),
        ({"points": SPARE, "field:": np.ones(5)}, "xyz", r"may have `rgb`.*`field:NAME`; got \['field:', 'points'\]"),
        ({"points": SPARE, "field:a": np.ones(5) * np.nan}, "xyz", "`field:a` of cloud 0 has 5 NaN or infinite values"),
        ({"points": SPARE}, "field:", "joined by commas; got 'field:'"),
    ],
)
def test_fields_that_do_not_fit_are_quoted(cloud, features, message):
    with pytest.raises(InvalidInputError, match=message):
        voxelize(cloud, 0.1, features)


def test_points_may_have_many_columns():
    points = torch.rand((100, 62))
    assert torch.equal(voxelize(points, 0.1).features, voxelize(points[:, :3], 0.1).features)


def test_extra_columns_are_ignored_unless_named():
    points = random_points(10, 6)
    assert voxelize(points, 0.5).features.shape[1] == 3
    assert voxelize(points, 0.5, "extra").features.shape[1] == 3
    assert voxelize(points, 0.5, "xyz,extra").features.shape[1] == 6


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_either_byte_order_are_the_same_numbers(order):
    points, rgb = np.random.default_rng(0).random((50, 3)), np.full((50, 3), 257, np.uint16) * np.arange(50)[:, None]
    cloud = {"points": points, "rgb": rgb.astype(np.uint16)}
    stored = {name: values.astype(values.dtype.newbyteorder(order)) for name, values in cloud.items()}
    expected, x = (voxelize(fields, 0.1, "xyz,rgb") for fields in (cloud, stored))
    assert torch.equal(x.coords, expected.coords)
    assert torch.equal(x.features, expected.features)


POINT = [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("points", "keywords", "message"),
    [
        ([], {}, "non-empty list of them; got list"),
        ((), {}, "got tuple"),
        ("abc", {}, "got str"),
        (None, {}, "got NoneType"),
        (3.0, {}, "got float"),
        (np.zeros(3), {}, r"got shape \(3,\)"),
        (np.zeros((1, 1, 1, 3)), {}, r"got shape \(1, 1, 1, 3\)"),
        (np.zeros((0, 3)), {}, "Cloud 0 is empty"),
        ([SPARE, np.zeros((0, 3))], {}, "Cloud 1 is empty"),
        (np.zeros((2, 0, 3)), {}, "Cloud 0 is empty"),
        (np.zeros((4, 2)), {}, r"Cloud 0.*x, y, z; got shape \(4, 2\)"),
        ([[0, 0, 0], [1, 1, 1]], {}, r"Cloud 0.*got shape \(3,\)"),
        ([[[0, 0, 0], [1, 1]]], {}, "cloud 0 is not a numeric array"),
        ([[["a", "b", "c"]]], {}, "cloud 0 is not a numeric array"),
        (torch.zeros(2, 3, device="meta"), {}, "`points` of cloud 0 is on the meta device, which holds no numbers"),
        ([SPARE, None], {}, "cloud 1 is not a numeric array"),
        (np.zeros((2, 3), bool), {}, r"cloud 0 must hold real numbers; got torch\.bool"),
        (np.zeros((2, 3), complex), {}, r"real numbers; got torch\.complex128"),
        ([SPARE, [[0, np.nan, 0]]], {}, r"cloud 1 has 1 NaN or infinite value, .*\(0, 1\)"),
        ([[0, 0, 0], [np.inf, 0, -np.inf]], {}, r"Cloud 0.*got shape \(3,\)"),
        (np.array([[0, 0, 0], [np.inf, 0, -np.inf]]), {}, r"has 2 NaN or infinite values.*the first at \(1, 0\)"),
        (np.array([[0, 0, 0, np.nan]]), {}, r"has 1 NaN or infinite value,.*\(0, 3\)"),
        (POINT, {}, r"Cloud 0.*got shape \(3,\)"),
        (np.zeros((8, 9, 3), np.uint8), {}, r"uint8 \(8, 9, 3\), as images are"),
        (np.zeros((1, 3, 4, 4, 4)), {}, r"\(1, 3, 4, 4, 4\): `SparseTensor.from_dense` takes \(B, C, D, H, W\) volumes"),
        (torch.zeros((1, 3, 4, 4)), {}, r"\(1, 3, 4, 4\): `image_to_plane` takes"),
        (np.zeros((3, 100)), {}, r"Cloud 0 is \(3, 100\), of more columns than points.*Transpose"),
        (torch.zeros((3, 32, 32)), {"features": ["xyz", "ones"]}, r"Cloud 0 is \(32, 32\).*image_to_plane"),
        (np.array([[0, 2.0**31, 0]]), {"voxel_size": 1.0}, r"Cloud 0 reaches voxel 2\.15e\+09 at voxel_size=1\.0.*2\*\*30"),
        (np.array([[-1e300, 0, 0]]), {"voxel_size": 1e-300}, r"voxel_size=1e-300.*2\*\*30"),
        (np.array([[-(2.0**29), -(2.0**29), 0], [2.0**29, 2.0**29, 3]]), {"voxel_size": 1.0}, r"2\*\*62"),
        ([SPARE], {"voxel_size": 0}, "`voxel_size` must be a positive number; got 0"),
        ([SPARE], {"voxel_size": -0.1}, r"got -0\.1"),
        ([SPARE], {"voxel_size": float("nan")}, "got nan"),
        ([SPARE], {"voxel_size": float("inf")}, "got inf"),
        ([SPARE], {"reduce": "max"}, "'mean' or 'first'; got 'max'"),
        (
            [SPARE],
            {"features": "colour"},
            "must be some of xyz, rgb, normals, ones, intensity, extra, field:NAME, joined by commas; got 'colour'",
        ),
        ([SPARE], {"features": ""}, "got ''"),
        ([SPARE], {"features": "xyz,"}, "got 'xyz,'"),
        ([SPARE], {"features": "extra"}, "'extra' of cloud 0.*no column beyond"),
        ([SPARE], {"features": "rgb"}, "'rgb' of cloud 0.*mapping with 'points' and 'rgb'"),
        ([{"points": SPARE}, SPARE], {"features": ["normals"]}, "'normals' of cloud 0"),
        ({"rgb": SPARE}, {}, r"Cloud 0 must have `points`.*\['rgb'\]"),
        ({"points": SPARE, "labels": SPARE}, {}, r"\['labels', 'points'\]"),
        ({"points": SPARE, "rgb": SPARE[:4]}, {}, r"`rgb` of cloud 0 must be \(5, 3\); got \(4, 3\)"),
        ({"points": SPARE, "normals": SPARE[:, :2]}, {}, r"`normals` of cloud 0 must be \(5, 3\); got \(5, 2\)"),
        ({"points": SPARE, "rgb": SPARE * np.nan}, {}, "`rgb` of cloud 0 has 15 NaN or infinite values"),
        ([SPARE], {"features": [SPARE[:4]]}, r"`features` of cloud 0 must be \(5, C\); got \(4, 3\)"),
        ([SPARE], {"features": SPARE[:, 0]}, r"must be \(5, C\); got \(5,\)"),
        ([SPARE], {"features": [SPARE * np.inf]}, "`features` of cloud 0 has 15 NaN or infinite values"),
        ([SPARE], {"features": None}, "`features` of cloud 0 is not a numeric array"),
        ([SPARE, SPARE], {"features": SPARE}, "must be a list of 2 arrays, one a cloud; got one array"),
    ],
)
def test_bad_input_is_quoted(points, keywords, message):
    with pytest.raises(InvalidInputError, match=message):
        voxelize(points, **keywords)


@pytest.mark.parametrize(
    ("points", "keywords", "message"),
    [
        (np.zeros((0, 5, 3)), {}, r"\(0, 5, 3\)|empty"),
        ([SPARE], {"voxel_size": "a"}, "`voxel_size`.*a"),
        ([SPARE], {"voxel_size": None}, "`voxel_size`.*None"),
        ([SPARE], {"voxel_size": np.ones(3)}, "`voxel_size`"),
        ([SPARE], {"features": []}, "`?[Ff]eatures?"),
        ([SPARE, SPARE], {"features": [SPARE]}, "`features`.*2.*1"),
        ([SPARE, SPARE], {"features": [SPARE] * 3}, "`features`.*2.*3"),
        ([SPARE, SPARE], {"features": np.stack([SPARE])}, "`features`.*2.*1"),
        ([SPARE, SPARE], {"features": [SPARE, SPARE[:, :2]]}, "[Ff]eatures.*(3.*2|2.*3)"),
        ([random_points(3, 4), random_points(3, 5)], {"features": "extra"}, "(1.*2|2.*1)"),
    ],
)
def test_clouds_and_features_that_do_not_fit_each_other_are_quoted(points, keywords, message):
    with pytest.raises(InvalidInputError, match=message):
        voxelize(points, **keywords)


CPU, META = torch.from_numpy(SPARE), torch.from_numpy(SPARE).to("meta")


@pytest.mark.parametrize(
    ("points", "features"),
    [([CPU, META], "xyz"), ({"points": CPU, "rgb": META}, "rgb"), (CPU, META)],
    ids=["clouds", "colours", "features"],
)
def test_arrays_on_two_devices_are_quoted(points, features):
    with pytest.raises(InvalidInputError, match=r"(cpu.*meta|meta.*cpu)"):
        voxelize(points, 0.1, features)


@pytest.mark.parametrize(("axis", "place"), [("z", (0, 1, 2)), ("y", (1, 0, 2)), ("x", (1, 2, 0))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_pixel_is_a_voxel_of_the_plane(axis, place, dtype):
    images = random_images(2, 3, 4, 5).to(dtype)
    x = image_to_plane(images, axis)
    assert x.features.dtype == dtype
    assert x.shape == (2, 3, 4, 5)
    assert x.spatial_shape == tuple((1, 4, 5)[i] for i in place)
    assert len(x.coords) == 40
    seen = set()
    for feature, (b, *site) in zip(x.features, x.coords.tolist(), strict=True):
        zero, row, column = (site[place.index(i)] for i in range(3))
        assert zero == 0
        assert torch.equal(feature, images[b, :, row, column])
        seen.add((b, row, column))
    assert len(seen) == 40


def test_a_non_contiguous_image_means_what_it_shows():
    images = random_images(2, 3, 4, 5)
    assert torch.equal(image_to_plane(images.to(memory_format=torch.channels_last)).dense(), image_to_plane(images).dense())
    flipped = images.transpose(2, 3)
    assert torch.equal(image_to_plane(flipped).dense()[:, :, 0], flipped)


@pytest.mark.parametrize(
    ("images", "axis", "message"),
    [
        (torch.zeros(3, 4, 5), "z", r"got torch\.float32 \(3, 4, 5\)"),
        (torch.zeros(1, 3, 4, 5).byte(), "z", r"got torch\.uint8 \(1, 3, 4, 5\)"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.complex64), "z", r"got torch\.complex64"),
        (torch.zeros(0, 3, 4, 5), "z", r"\(0, 3, 4, 5\)"),
        (torch.zeros(1, 3, 0, 5), "z", r"\(1, 3, 0, 5\)"),
        (np.zeros((1, 3, 4, 5)), "z", "got ndarray"),
        (torch.zeros(1, 3, 4, 5), "w", "`axis` must be 'z', 'y' or 'x'; got 'w'"),
        (torch.zeros(1, 3, 4, 5), 0, "got 0"),
    ],
)
def test_bad_images_are_quoted(images, axis, message):
    with pytest.raises(InvalidInputError, match=message):
        image_to_plane(images, axis)


@pytest.mark.parametrize(
    ("clouds", "features"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 3, device="meta")], "xyz"),
        ([np.zeros((2, 3), np.float32), torch.zeros(2, 3, device="meta")], "xyz"),
        ([{"points": torch.zeros(2, 3), "rgb": torch.zeros(2, 3, device="meta")}], "rgb"),
        (torch.zeros(1, 2, 3), [torch.zeros(2, 4, device="meta")]),
    ],
    ids=["tensors", "an array and a tensor", "points and their colours", "features apart"],
)
def test_clouds_on_several_devices_are_refused_by_the_names_of_the_devices(clouds, features):
    with pytest.raises(InvalidInputError, match=r"must be on one device; got \['cpu', 'meta'\]"):
        voxelize(clouds, 0.1, features=features)
