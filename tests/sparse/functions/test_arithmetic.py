"""Arithmetic of two tensors or a tensor and a gate, against the same calls on the image that lies on the plane."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from timm.layers.drop import drop_path
from torch.nn import functional as F

from i2p_zoo import CoordinateMismatchError, I2PError, InvalidInputError, SparseTensor, UnsupportedError, image_to_plane
from tests.helpers import check_on_plane, random_cloud, random_images, seeded
from tests.oracles import check_as_image, check_channels_last, check_on_samples, last

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)

GATES = {  # what may stand beside a (2, 4, H, W) tensor
    "a gate a sample and channel": (2, 4, 1, 1),
    "a gate a channel": (1, 4, 1, 1),
    "a gate a channel without batch": (4, 1, 1),
    "a gate a sample": (2, 1, 1, 1),
    "one number of four dimensions": (1, 1, 1, 1),
    "one number": (1,),
    "a number without dimension": (),
}
BINARY = {
    "x + y": lambda x, y: x + y,
    "x - y": lambda x, y: x - y,
    "x * y": lambda x, y: x * y,
    "x / y": lambda x, y: x / y,
    "y + x": lambda x, y: y + x,
    "y - x": lambda x, y: y - x,
    "y * x": lambda x, y: y * x,
    "y / x": lambda x, y: y / x,
    "x.add": lambda x, y: x.add(y),
    "x.sub alpha": lambda x, y: x.sub(y, alpha=3),
    "x.mul": lambda x, y: x.mul(y),
    "x.div": lambda x, y: x.div(y),
    "torch.add": torch.add,
    "torch.add alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "torch.sub": torch.sub,
    "torch.sub reflected": lambda x, y: torch.sub(y, x, alpha=2),
    "torch.mul": torch.mul,
    "torch.div": torch.div,
    "torch.true_divide": torch.true_divide,
    "torch.maximum": torch.maximum,
    "torch.minimum reflected": lambda x, y: torch.minimum(y, x),
    "torch.max": torch.max,
}
IN_PLACE = {
    "x += y": lambda x, y: x.__iadd__(y),
    "x -= y": lambda x, y: x.__isub__(y),
    "x *= y": lambda x, y: x.__imul__(y),
    "x /= y": lambda x, y: x.__itruediv__(y),
    "x.add_": lambda x, y: x.add_(y),
    "x.add_ alpha": lambda x, y: x.add_(y, alpha=2),
    "x.sub_": lambda x, y: x.sub_(y),
    "x.mul_": lambda x, y: x.mul_(y),
    "x.div_": lambda x, y: x.div_(y),
}


@pytest.mark.parametrize("shape", GATES.values(), ids=GATES.keys())
@pytest.mark.parametrize("function", BINARY.values(), ids=BINARY.keys())
def test_arithmetic_with_a_dense_gate_broadcasts_as_on_images(function, shape):
    images, gate = IMAGES.abs() + 0.1, torch.rand(shape, generator=seeded(1), dtype=torch.float64) + 0.5
    check_on_plane(function, images, gate)


@pytest.mark.parametrize("shape", GATES.values(), ids=GATES.keys())
@pytest.mark.parametrize("function", IN_PLACE.values(), ids=IN_PLACE.keys())
def test_arithmetic_in_place_with_a_dense_gate_broadcasts_as_on_images(function, shape):
    gate = torch.rand(shape, generator=seeded(1), dtype=torch.float64) + 0.5
    check_on_plane(lambda x, y: function(x * 1, y), IMAGES, gate)


@AXES
@pytest.mark.parametrize("function", [*BINARY.values(), *IN_PLACE.values()], ids=[*BINARY, *IN_PLACE])
def test_arithmetic_of_two_tensors_on_the_same_sites(function, axis):
    check_on_plane(lambda x: function(x * 2, (x * 0.3).sigmoid()), IMAGES.abs() + 0.1, axis=axis)


def test_arithmetic_with_python_numbers():
    for function in (
        lambda x: 1 - x,
        lambda x: 1 / x,
        lambda x: 2 * x + 3,
        lambda x: 0.5 + x / 4 - 1,
        lambda x: -x,
        lambda x: x**2,
        lambda x: x**0.5,
        lambda x: torch.add(x, 2, alpha=3),
        lambda x: torch.mul(x, 2.5),
        lambda x: (x * 1).mul_(3).add_(1).div_(2).sub_(0.5),
    ):
        check_on_plane(function, IMAGES.abs() + 0.1)


def test_arithmetic_in_place_writes_into_the_features_and_returns_the_tensor():
    x, gate = random_cloud(3), torch.rand(2, 3, 1, 1, generator=seeded(2), dtype=torch.float64)
    features, expected = x.features, x.features * gate[x.coords[:, 0].long(), :, 0, 0]
    same = x
    same *= gate
    assert same is x
    assert x.features is features
    assert torch.equal(features, expected)


def test_gates_go_to_the_sample_of_each_voxel_of_a_cloud():
    x = random_cloud(3, voxels=50, batch_size=3)
    gate = random_images(3, 3, 1, 1, seed=4)
    found = (x * gate).features
    for row, (sample, *_) in enumerate(x.coords.tolist()):
        assert torch.equal(found[row], x.features[row] * gate[sample, :, 0, 0])


def test_gates_align_with_several_channel_dimensions_from_the_right():
    images = random_images(2, 6, 3, 4)
    for shape in ((2, 2, 3, 1, 1), (1, 2, 3, 1, 1), (2, 3, 1, 1), (3, 1, 1), (2, 1, 1, 1, 1), (2, 2, 1, 1, 1)):
        gate = torch.rand(shape, generator=seeded(1), dtype=torch.float64)
        check_on_plane(lambda x, y: x.reshape(2, 2, 3, 3, 4) * y, images, gate)


def test_squeeze_and_excitation_is_that_of_the_image():
    check_on_plane(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), IMAGES)
    check_on_plane(lambda x: x * (F.adaptive_avg_pool2d(x, 1).expand_as(x)).sigmoid(), IMAGES)


SHIFTED = {
    "other sites": lambda x: SparseTensor(x.features, x.coords + torch.tensor([0, 0, 0, 1]), batch_size=2),
    "fewer sites": lambda x: SparseTensor(x.features[1:], x.coords[1:], batch_size=2),
    "another row order": lambda x: SparseTensor(x.features.flip(0), x.coords.flip(0), batch_size=2),
    "another stride": lambda x: SparseTensor(x.features, x.coords.clone(), stride=2, batch_size=2),
    "strided sites": lambda x: F.max_pool2d(x, 2),
}
TOGETHER = {
    "x + y": lambda x, y: x + y,
    "x *= y": lambda x, y: x.__imul__(y),
    "torch.maximum": torch.maximum,
    "torch.cat": lambda x, y: torch.cat([x, y], 1),
    "torch.stack": lambda x, y: torch.stack([x, y], 1),
}


@pytest.mark.parametrize("other", SHIFTED.values(), ids=SHIFTED.keys())
@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER.keys())
def test_tensors_on_different_sites_do_not_mix(together, other):
    x = random_cloud(2, voxels=30)
    with pytest.raises(CoordinateMismatchError, match=r"same voxels; got SparseTensor\(voxels=30, .*SparseTensor\(voxels="):
        together(x, other(x))


def test_tensors_of_different_extents_do_not_mix():
    # Padding after the last row and column keeps the sites, as the same object; torch refuses the two images.
    x = image_to_plane(random_images(1, 2, 4, 4))
    padded = F.pad(x, (0, 1, 0, 1))
    for together in TOGETHER.values():
        with pytest.raises((CoordinateMismatchError, UnsupportedError)):
            together(x, padded)


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER.keys())
def test_equal_sites_that_are_two_objects_do_mix(together):
    x = random_cloud(2)
    twin = SparseTensor(x.features.exp(), x.coords.clone(), batch_size=2)
    expected = together(x.features[..., None, None].clone(), twin.features[..., None, None])[..., 0, 0]
    assert torch.equal(together(x, twin).features, expected)


GATES_BEHIND = {  # what may stand beside a (2, H, W, 4) tensor
    "a gate a channel": (4,),
    "a gate a channel of three dimensions": (1, 1, 4),
    "a gate a channel of four dimensions": (1, 1, 1, 4),
    "a gate a sample and channel": (2, 1, 1, 4),
    "a gate a sample": (2, 1, 1, 1),
    "one number of four dimensions": (1, 1, 1, 1),
    "one number": (1,),
    "a number without dimension": (),
}


@pytest.mark.parametrize("shape", GATES_BEHIND.values(), ids=GATES_BEHIND.keys())
@pytest.mark.parametrize("function", [*BINARY.values(), *IN_PLACE.values()], ids=[*BINARY, *IN_PLACE])
def test_arithmetic_of_channels_behind_with_a_dense_gate_broadcasts_as_on_images(function, shape):
    gate = torch.rand(shape, generator=seeded(1), dtype=torch.float64) + 0.5
    check_channels_last(lambda x, y: function(x * 1, y), IMAGES.abs() + 0.1, gate)


@AXES
@pytest.mark.parametrize("function", [*BINARY.values(), *IN_PLACE.values()], ids=[*BINARY, *IN_PLACE])
def test_arithmetic_of_two_tensors_with_channels_behind(function, axis):
    check_channels_last(lambda x: function(x * 2, (x * 0.3).sigmoid()), IMAGES.abs() + 0.1, axis=axis)


def test_gates_behind_align_with_several_channel_dimensions_from_the_right():
    for shape in ((3,), (2, 3), (2, 1), (1, 1, 2, 3), (2, 1, 1, 2, 3), (2, 1, 1, 1, 1), (2, 1, 1, 2, 1)):
        gate = torch.rand(shape, generator=seeded(1), dtype=torch.float64)
        check_channels_last(lambda x, y: x.reshape(2, 3, 4, 2, 3) * y, random_images(2, 6, 3, 4), gate)


def test_one_channel_broadcasts_to_those_of_a_gate():
    for shape in ((1, 4, 1, 1), (2, 4, 1, 1)):
        check_on_plane(torch.mul, random_images(2, 1, 3, 4), random_images(*shape))
    for shape in ((4,), (2, 1, 1, 4)):
        check_channels_last(lambda x, y: y - x, random_images(2, 1, 3, 4), torch.ones(shape).double())


def test_gates_behind_go_to_the_sample_of_each_voxel_of_a_cloud():
    x = random_cloud(3, voxels=50, batch_size=3)
    gate = random_images(3, 1, 1, 3, seed=4)
    for function in (torch.mul, torch.sub, lambda a, b: b / a):
        found = function(last(x), gate)
        assert found.channels_last
        for row, (sample, *_) in enumerate(x.coords.tolist()):
            assert torch.equal(found.features[row], function(x.features[row], gate[sample, 0, 0]))


@pytest.mark.parametrize("check", [check_on_plane, check_channels_last])
def test_a_dropped_path_is_that_of_the_sample(check):
    images = random_images(8, 3, 4, 5)

    def dropped(x):
        torch.manual_seed(0)
        return drop_path(x, 0.5, training=True)

    with torch.random.fork_rng():
        check(dropped, images)
        assert 0 < (dropped(images) == 0).all(-1).all(-1).all(-1).sum() < 8


ADDCMUL = [kinds for kinds in product("sparse dense".split(), repeat=3) if "sparse" in kinds]


@pytest.mark.parametrize("value", [1, -0.5])
@pytest.mark.parametrize("kinds", ADDCMUL, ids=" ".join)
def test_addcmul_takes_any_of_its_three_sparse(kinds, value):
    for check, shapes in (
        (check_on_plane, [(1, 4, 1, 1), (2, 4, 1, 1), (2, 1, 1, 1)]),
        (check_channels_last, [(4,), (2, 1, 1, 4), (2, 1, 1, 1)]),
    ):
        gates = [random_images(*shape, seed=7) for shape in shapes]

        def function(x, *gates):
            each = [
                (x + n).tanh() if kind == "sparse" else gate for n, (kind, gate) in enumerate(zip(kinds, gates, strict=True))
            ]
            return torch.addcmul(*each, value=value)

        check(function, IMAGES, *gates)
        check(lambda x, gate: x.addcmul(x.exp(), gate, value=value), IMAGES, gates[1])


def test_addcmul_on_a_cloud_is_that_of_each_voxel():
    gate = random_images(1, 4, 1, 1)
    for function in (lambda x: torch.addcmul(gate, x, x.tanh(), value=2), lambda x: torch.addcmul(x.exp(), x, gate)):
        check_on_samples(function, random_cloud(4, batch_size=3))


REFUSED = {
    "a gate of another batch": (lambda x: x * torch.ones(3, 4, 1, 1), InvalidInputError, "`mul`: a gate of 3 .* batch of 2"),
    "into a dense tensor": (lambda x: torch.ones(2, 4, 1, 1).add_(x), UnsupportedError, "`add_` cannot write"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(IMAGES))


REFUSED_TOO = {
    "a quotient rounded": lambda x: torch.div(x, 2, rounding_mode="floor"),
}


@pytest.mark.parametrize("call", REFUSED_TOO.values(), ids=REFUSED_TOO.keys())
def test_odd_calls_are_refused_as_unsupported_too(call):
    with pytest.raises(I2PError):
        call(image_to_plane(IMAGES))


SPATIAL = {"first": [(2, 4, 6, 5), (4, 6, 5), (6, 5), (6, 1), (1, 5), (5,), (1, 1, 6, 1), (4, 1, 5), (4, 1)]}
SPATIAL["last"] = [(2, 6, 5, 4), (6, 5, 4), (6, 5, 1), (5, 4), (5, 1), (6, 1, 1), (1, 6, 1, 4), (2, 1, 5, 1), (4, 1, 1)]


@pytest.mark.parametrize("layout", SPATIAL)
def test_a_dense_tensor_with_height_or_width_is_read_at_the_sites_of_an_image_and_refused_on_a_cloud(layout):
    turned = last if layout == "last" else lambda x: x
    for shape in SPATIAL[layout]:
        dims = "1 and 2" if layout == "last" else "2 and 3"
        table = random_images(*shape, seed=3)
        for function in (torch.add, lambda a, b: b - a, lambda a, b: a.mul_(b), lambda a, b: torch.addcmul(a, a, b)):
            if shape not in ((4, 1), (4, 1, 1)):  # which torch does not take either
                check_as_image(lambda x, table, f=function: f(turned(x * 1), table), IMAGES, table)
            with pytest.raises(UnsupportedError, match=f"must have 1 in dimensions {dims}"):
                function(turned(random_cloud(4)), table)


def test_a_dense_tensor_of_more_dimensions_adds_them_in_front():
    check_as_image(lambda x, gate: x * gate, IMAGES, random_images(1, 1, 4, 1, 1))
    with pytest.raises(UnsupportedError, match=r"\(1, 1, 4, 1, 1\)"):
        random_cloud(4) * torch.ones(1, 1, 4, 1, 1)


def test_tensors_of_two_layouts_do_not_mix():
    x = image_to_plane(random_images(2, 4, 4, 4))
    with pytest.raises(I2PError):
        x + last(x)
