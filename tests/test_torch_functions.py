"""Torch functions on sparse tensors against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import (
    CoordinateMismatchError,
    I2PError,
    InvalidInputError,
    SparseTensor,
    UnsupportedError,
    image_to_plane,
    sparse_op,
)
from i2p_zoo.sparse_tensor import _handlers
from tests.helpers import check_on_plane, random_cloud, random_images, seeded

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)

ELEMENTWISE = {  # name: further arguments
    **dict.fromkeys(
        "relu relu_ relu6 silu sigmoid sigmoid_ logsigmoid hardswish hardsigmoid tanh tanh_ gelu mish selu".split(), ()
    ),
    **dict.fromkeys("softplus softsign tanhshrink exp log sqrt rsqrt square abs neg __neg__ reciprocal".split(), ()),
    **dict.fromkeys("clone contiguous nan_to_num".split(), ()),
    **dict.fromkeys("hardtanh hardtanh_ clamp clamp_".split(), (-0.5, 0.7)),
    **dict.fromkeys("elu elu_ celu leaky_relu leaky_relu_ clamp_min clamp_max".split(), (0.3,)),
    **dict.fromkeys("pow __pow__".split(), (3,)),
    **dict.fromkeys("dropout alpha_dropout".split(), (0.5, False)),
    "threshold": (0.2, -1.5),
    "rrelu": (0.2, 0.4, False),
    "type_as": (torch.zeros(1, dtype=torch.float64),),
}
ONLY_POSITIVE = {"log", "sqrt", "rsqrt"}


def spellings(name):
    """The function of this name in torch, in torch.nn.functional and as a method of tensors."""
    found = {f"{space.__name__}.{name}": getattr(space, name) for space in (torch, F) if hasattr(space, name)}
    if hasattr(Tensor, name):
        found[f"Tensor.{name}"] = lambda x, *args: getattr(x, name)(*args)
    return found


CALLS = [pytest.param(call, name, id=spelling) for name in ELEMENTWISE for spelling, call in spellings(name).items()]


@pytest.mark.parametrize(("call", "name"), CALLS)
def test_elementwise_function_acts_on_each_value(call, name):
    images = IMAGES.abs() + 0.1 if name in ONLY_POSITIVE else IMAGES
    # Times one, since a function in place may not write into a leaf that needs a gradient.
    check_on_plane(lambda x: call(x * 1, *ELEMENTWISE[name]), images)


def test_no_elementwise_function_of_the_table_is_left_untested():
    registered = {function for function, handler in _handlers.items() if handler.__qualname__.startswith("elementwise ")}
    tested = {getattr(space, name) for name in ELEMENTWISE for space in (torch, F, Tensor) if hasattr(space, name)}
    assert len(registered) > 50
    assert registered == tested


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name.endswith("_") and not name.endswith("__")])
def test_a_function_in_place_writes_into_the_features_and_returns_the_tensor(name):
    for call in spellings(name).values():
        x = random_cloud(3)
        features, expected = x.features, getattr(torch, name, getattr(F, name, None))(x.features.clone(), *ELEMENTWISE[name])
        assert call(x, *ELEMENTWISE[name]) is x
        assert x.features is features
        assert torch.equal(features, expected)


@pytest.mark.parametrize("layer", [nn.ReLU(True), nn.SiLU(True), nn.Hardswish(True), nn.ReLU6(True), nn.GELU(), nn.Identity()])
def test_activation_modules_act_as_on_images(layer):
    check_on_plane(lambda x: layer(x * 1), IMAGES)


def test_keyword_arguments_are_passed_on():
    check_on_plane(lambda x: F.leaky_relu(x, negative_slope=0.3), IMAGES)
    check_on_plane(lambda x: x.clamp(min=-0.2), IMAGES)
    check_on_plane(lambda x: F.gelu(x, approximate="tanh"), IMAGES)
    check_on_plane(lambda x: F.softplus(x, beta=2.0), IMAGES)


def test_batch_norm_normalises_over_all_pixels_in_training_and_evaluation():
    for training in (True, False):
        for layer in (nn.BatchNorm2d(4).double(), nn.BatchNorm2d(4, affine=False).double()):
            layer.train(training)
            layer.running_mean += 0.3
            check_on_plane(layer, IMAGES, tolerance=1e-11)
    twin = nn.BatchNorm2d(4).double()
    layer = nn.BatchNorm2d(4).double()
    layer(IMAGES)
    twin(image_to_plane(IMAGES))
    assert torch.allclose(twin.running_mean, layer.running_mean, rtol=1e-12)
    assert torch.allclose(twin.running_var, layer.running_var, rtol=1e-12)


def test_prelu_has_one_slope_or_one_a_channel():
    for slopes in (torch.tensor([0.3]).double(), torch.tensor([0.1, 0.2, 0.3, -0.4]).double()):
        check_on_plane(F.prelu, IMAGES, slopes)


def test_dropout_drops_values_and_keeps_the_mean():
    x = image_to_plane(torch.ones(2, 5, 50, 50))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = F.dropout(x, 0.2, True).features
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert abs(dropped.mean() - 1) < 0.02


def test_dropout2d_drops_whole_channels_of_a_sample():
    x = random_cloud(50, voxels=60, batch_size=3)
    x = x.derive(torch.ones_like(x.features))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = F.dropout2d(x, 0.5, True).features
    for sample in range(3):
        rows = dropped[x.batch_rows == sample]
        assert torch.equal(rows, rows[:1].expand_as(rows))
        assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[x.batch_rows == 0][0], dropped[x.batch_rows == 1][0])
    assert torch.equal(F.dropout2d(x, 0.5, False).features, x.features)


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


CHANNELS = {
    "cat": lambda x: torch.cat([x, x * 2, x[:, :1]], 1),
    "cat of a negative dimension": lambda x: torch.cat((x, x * 2), dim=-3),
    "concat": lambda x: torch.concat([x, x], dim=1),
    "cat of folded channels": lambda x: torch.cat([x.reshape(2, 2, 2, 6, 5)] * 2, 2),
    "stack": lambda x: torch.stack([x, x * 2, x * 3], 1),
    "stack behind": lambda x: torch.stack([x, x * 2], dim=2),
    "stack and sum": lambda x: torch.stack([x, x * 2], dim=1).sum(1),
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, 3, dim=1),
    "chunk of a negative dimension": lambda x: x.chunk(2, dim=-3),
    "split": lambda x: x.split(3, 1),
    "torch.split": lambda x: torch.split(x, [1, 3], dim=1),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=1),
    "unbind": lambda x: x.unbind(1),
    "unbind of folded channels": lambda x: torch.unbind(x.view(2, 2, 2, 6, 5), dim=2),
    "unbind and stack": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "softmax": lambda x: x.softmax(1),
    "F.softmax": lambda x: F.softmax(x, dim=1),
    "softmax of folded channels": lambda x: torch.softmax(x.view(2, 2, 2, 6, 5), dim=2),
    "reshape": lambda x: x.reshape(2, 2, 2, 6, 5),
    "reshape of a size": lambda x: x.reshape((2, 2, -1, 6, 5)),
    "reshape back": lambda x: x.view(2, 2, 2, 6, 5).reshape(-1, 4, 6, 5),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze behind": lambda x: torch.unsqueeze(x, 2),
    "maximum over channels": lambda x: torch.max(x, 1, keepdim=True)[0],
    "maximum over channels, a method": lambda x: x.max(1).values,
    "mean and maximum side by side": lambda x: torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1),
}


@pytest.mark.parametrize("function", CHANNELS.values(), ids=CHANNELS.keys())
def test_channels_are_joined_split_and_folded_as_those_of_images(function):
    check_on_plane(function, IMAGES)


def test_the_index_of_the_maximum_channel_is_that_of_the_image():
    assert torch.equal(image_to_plane(IMAGES).max(1).indices.dense()[:, 0], IMAGES.max(1).indices)


INDICES = {
    "all": lambda x: x[:],
    "ellipsis": lambda x: x[...],
    "one channel": lambda x: x[:, 1],
    "the last channel": lambda x: x[:, -1],
    "a range of channels": lambda x: x[:, 1:3],
    "every second channel": lambda x: x[:, ::2],
    "channels by a list": lambda x: x[:, [2, 0, 2]],
    "channels by a tensor": lambda x: x[:, torch.tensor([3, 1])],
    "channels by a mask": lambda x: x[:, torch.tensor([True, False, True, True])],
    "a new channel dimension": lambda x: x[:, None],
    "a crop": lambda x: x[:, :, 1:4, 2:5],
    "a crop from behind": lambda x: x[:, :, -3:, :-1],
    "a crop of rows": lambda x: x[:, :, 2:],
    "a crop after an ellipsis": lambda x: x[..., 1:],
    "a crop beyond the border": lambda x: x[:, :, :99, 1:99],
    "channels and a crop": lambda x: x[:, 1:3, :-1, 1:],
    "a tensor and a crop": lambda x: x[:, torch.tensor([3, 1]), ..., :-2],
    "one channel of folded ones": lambda x: x.view(2, 2, 2, 6, 5)[:, 1],
    "a channel of each fold": lambda x: x.view(2, 2, 2, 6, 5)[:, :, 0],
    "a crop of folded channels": lambda x: x.view(2, 2, 2, 6, 5)[:, 0, ..., 1:, :],
    "crops one after the other": lambda x: x[:, :, 1:, 1:][:, :, 1:, :-1],
}


@AXES
@pytest.mark.parametrize("function", INDICES.values(), ids=INDICES.keys())
def test_indexing_is_that_of_the_image(function, axis):
    check_on_plane(function, IMAGES, axis=axis)


PADS = {
    "each side its own": lambda x: F.pad(x, (1, 2, 3, 4)),
    "width only": lambda x: F.pad(x, (2, 1)),
    "before only": lambda x: F.pad(x, (1, 0, 1, 0)),
    "after only": lambda x: F.pad(x, (0, 1, 0, 1)),
    "nothing": lambda x: F.pad(x, (0, 0, 0, 0)),
    "channels by nothing": lambda x: F.pad(x, (1, 1, 1, 1, 0, 0)),
    "a crop": lambda x: F.pad(x, (-1, -2, 0, -3)),
    "a crop and a border": lambda x: F.pad(x, (2, -1, -2, 1)),
    "zeros by value": lambda x: F.pad(x, (1, 1), mode="constant", value=0.0),
    "a layer": nn.ZeroPad2d((1, 2, 0, 3)),
    "a border and its crop": lambda x: F.pad(F.pad(x, (2, 2, 1, 1)), (-2, -2, -1, -1)),
    "minus infinity before a maximum": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-float("inf")), 3, 2),
    "TensorFlow's before a maximum": lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float("inf")), 3, 2),
    "before an average": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1),
    "after rows that stay": lambda x: F.avg_pool2d(F.pad(x, (0, 1)), 2, 1),
}


@AXES
@pytest.mark.parametrize("function", PADS.values(), ids=PADS.keys())
def test_padding_is_that_of_the_image(function, axis):
    check_on_plane(function, IMAGES, axis=axis)


def test_padding_shifts_the_sites_of_a_cloud_along_the_images_axes():
    x = random_cloud(2)
    for axis, shift in ((0, (0, 3, 1)), (1, (3, 0, 1)), (2, (3, 1, 0))):
        padded = F.pad(x.with_plan(axis=axis), (1, 2, 3, 4))
        assert torch.equal(padded.coords, x.coords + torch.tensor([0, *shift]))
        assert padded.features is x.features
        assert padded.spatial_shape is None


def pooled(x, factor=2):
    return F.avg_pool2d(x, factor)


UPSAMPLINGS = {
    "by a factor": lambda x: F.interpolate(pooled(x), scale_factor=2),
    "by two factors": lambda x: F.interpolate(pooled(x), scale_factor=(2.0, 2.0), mode="nearest"),
    "to a size": lambda x: F.interpolate(pooled(x), size=(8, 12)),
    "to the size of a tensor": lambda x: F.interpolate(pooled(x), size=x.shape[-2:], mode="nearest"),
    "by four at once": lambda x: F.interpolate(pooled(x, 4), scale_factor=4),
    "by four after two steps": lambda x: F.interpolate(pooled(pooled(x)), scale_factor=4.0),
    "twice by two": lambda x: F.interpolate(F.interpolate(pooled(pooled(x)), scale_factor=2), scale_factor=2),
    "a layer": lambda x: nn.Upsample(scale_factor=2)(pooled(x)),
    "into a sum": lambda x: x + F.interpolate(pooled(x) * 2, scale_factor=2),
    "by one": lambda x: F.interpolate(x, scale_factor=1),
    "to its own size": lambda x: F.interpolate(x, size=x.shape[-2:]),
}


@AXES
@pytest.mark.parametrize("function", UPSAMPLINGS.values(), ids=UPSAMPLINGS.keys())
def test_nearest_up_sampling_after_a_strided_layer_is_that_of_the_image(function, axis):
    check_on_plane(function, random_images(2, 3, 8, 12), axis=axis)


def test_up_sampling_gives_the_extent_of_its_own_history_whatever_ran_before():
    x = image_to_plane(random_images(1, 2, 8, 8))
    padded = F.pad(x, (0, 2, 0, 2))  # the same sites, as the same object, in a larger extent
    pooled(x)
    assert F.interpolate(pooled(padded), scale_factor=2).shape == (1, 2, 10, 10)


REDUCTIONS = {
    "height and width": (2, 3),
    "height and width from behind": (-1, -2),
    "a list": [2, 3],
    "channels": 1,
    "channels in a tuple": (1,),
    "channels from behind": -3,
    "all but the batch": (1, 2, 3),
}


@pytest.mark.parametrize("keepdim", [False, True], ids=["", "keepdim"])
@pytest.mark.parametrize("dims", REDUCTIONS.values(), ids=REDUCTIONS.keys())
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_dimensions_is_that_of_the_image(how, dims, keepdim):
    check_on_plane(lambda x: getattr(x, how)(dims, keepdim), IMAGES)
    check_on_plane(lambda x: getattr(torch, how)(x, dim=dims, keepdim=keepdim), IMAGES)


@pytest.mark.parametrize("dims", [1, 2, (1, 2), (3, 4), (2, 3, 4), (1, -1, -2), (1, 2, 3, 4), -3], ids=str)
@pytest.mark.parametrize("how", ["mean", "sum", "amax"])
def test_reduction_over_folded_channels_is_that_of_the_image(how, dims):
    for keepdim in (False, True):
        check_on_plane(lambda x, keep=keepdim: getattr(x.reshape(2, 2, 3, 3, 4), how)(dims, keep), random_images(2, 6, 3, 4))


def test_a_dtype_asked_for_is_given():
    x = image_to_plane(IMAGES.float())
    expected = IMAGES.float().mean((2, 3), dtype=torch.float64)
    assert x.mean((2, 3), dtype=torch.float64).dtype == expected.dtype
    assert x.sum(1, dtype=torch.float64).dtype == torch.float64
    assert F.softmax(x, 1, dtype=torch.float64).dtype == torch.float64


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
        with pytest.raises(CoordinateMismatchError):
            together(x, padded)


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER.keys())
def test_equal_sites_that_are_two_objects_do_mix(together):
    x = random_cloud(2)
    twin = SparseTensor(x.features.exp(), x.coords.clone(), batch_size=2)
    expected = together(x.features[..., None, None].clone(), twin.features[..., None, None])[..., 0, 0]
    assert torch.equal(together(x, twin).features, expected)


REFUSED = {
    "a dense image": (lambda x: x + torch.ones(2, 4, 6, 5), UnsupportedError, r"`add`.*\(2, 4, 6, 5\).*must have 1"),
    "a dense row": (lambda x: x * torch.ones(5), UnsupportedError, r"`mul`.*\(5,\)"),
    "a gate of another batch": (lambda x: x * torch.ones(3, 4, 1, 1), InvalidInputError, "`mul`: a gate of 3 .* batch of 2"),
    "into a dense tensor": (lambda x: torch.ones(2, 4, 1, 1).add_(x), UnsupportedError, "`add_` cannot write"),
    "cat with a dense tensor": (lambda x: torch.cat([x, IMAGES], 1), UnsupportedError, r"`cat`.*\(2, 4, 6, 5\)"),
    "stack with a dense tensor": (lambda x: torch.stack([IMAGES, x], 1), UnsupportedError, r"`stack`.*\(2, 4, 6, 5\)"),
    "cat of samples": (lambda x: torch.cat([x, x]), UnsupportedError, "`cat` along dimension 0"),
    "cat of rows": (lambda x: torch.cat([x, x], 2), UnsupportedError, "`cat` along dimension 2.*1 to 1"),
    "stack of samples": (lambda x: torch.stack([x, x]), UnsupportedError, "`stack` along dimension 0.*1 to 2"),
    "stack behind the image": (lambda x: torch.stack([x, x], 4), UnsupportedError, "`stack` along dimension 4"),
    "chunks of samples": (lambda x: x.chunk(2), UnsupportedError, "`chunk` along dimension 0"),
    "splits of rows": (lambda x: x.split(3, dim=-2), UnsupportedError, "`split` along dimension -2"),
    "samples one by one": (lambda x: x.unbind(), UnsupportedError, "`unbind` along dimension 0"),
    "softmax over rows": (lambda x: x.softmax(-1), UnsupportedError, "`softmax` along dimension -1"),
    "unsqueeze before the batch": (lambda x: x.unsqueeze(0), UnsupportedError, "`unsqueeze` along dimension 0"),
    "unsqueeze of the image": (lambda x: x.unsqueeze(4), UnsupportedError, "`unsqueeze` along dimension 4"),
    "reshape of the image": (lambda x: x.reshape(2, 4, 30), UnsupportedError, r"to \(2, 4, 30\)"),
    "reshape of rows": (lambda x: x.reshape(2, 8, 3, 5), UnsupportedError, r"to \(2, 8, 3, 5\)"),
    "reshape of the batch": (lambda x: x.view(1, 8, 6, 5), UnsupportedError, r"to \(1, 8, 6, 5\)"),
    "flatten": (lambda x: torch.flatten(x, 1), UnsupportedError, "flatten.*sparse_op"),
    "one sample": (lambda x: x[0], UnsupportedError, "with 0: only channels"),
    "some samples": (lambda x: x[:1], UnsupportedError, "only channels"),
    "every second row": (lambda x: x[:, :, ::2], UnsupportedError, "steps of 1"),
    "one column": (lambda x: x[..., 0], UnsupportedError, "only channels"),
    "rows by a tensor": (lambda x: x[:, :, torch.tensor([0, 1])], UnsupportedError, "only channels"),
    "no rows": (lambda x: x[:, :, 3:3], InvalidInputError, r"\(1, 0, 5\)"),
    "a loop over samples": (lambda x: list(x), UnsupportedError, "only channels"),
    "mirror padding": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), UnsupportedError, r"\(1, 1, 1, 1\).*'reflect'"),
    "padding by ones": (lambda x: F.pad(x, (1, 1), value=1.0), UnsupportedError, "value=1.0.*only zeros"),
    "padding of channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), UnsupportedError, r"\(0, 0, 0, 0, 1, 1\)"),
    "padding away all": (lambda x: F.pad(x, (-3, -2)), InvalidInputError, r"\(1, 6, 0\)"),
    "the mean of all": (lambda x: x.mean(), UnsupportedError, "`mean` over dimensions None"),
    "the sum over samples": (lambda x: x.sum(0), UnsupportedError, "`sum` over dimensions 0.*batch stays"),
    "the mean over rows": (lambda x: x.mean(2), UnsupportedError, "over dimensions 2.*go together"),
    "the mean over channels and columns": (lambda x: x.mean((1, 3)), UnsupportedError, r"\(1, 3\)"),
    "the maximum over rows": (lambda x: x.max(2), UnsupportedError, "`max` along dimension 2"),
    "bilinear": (lambda x: F.interpolate(pooled(x), scale_factor=2, mode="bilinear"), UnsupportedError, "'bilinear'"),
    "up-sampling by a fraction": (lambda x: F.interpolate(pooled(x), scale_factor=1.5), UnsupportedError, r"\[1\.5\]"),
    "two factors": (lambda x: F.interpolate(pooled(x), scale_factor=(2, 3)), UnsupportedError, r"\[2.*3.*\]"),
    "up-sampling to an odd size": (lambda x: F.interpolate(pooled(x), size=(7, 5)), UnsupportedError, "only one whole factor"),
    "down-sampling": (lambda x: F.interpolate(x, scale_factor=0.5), UnsupportedError, r"\[0\.5\]"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(IMAGES))


REFUSED_TOO = {
    "the maximum of all": lambda x: x.max(),
    "the mean over no dimensions": lambda x: x.mean(()),
    "a power of two tensors": lambda x: x**x,
    "a number to a power": lambda x: torch.pow(2, x),
    "the type of a sparse tensor": lambda x: torch.zeros(1).type_as(x),
    "a quotient rounded": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "a gate of more dimensions": lambda x: x * torch.ones(1, 1, 4, 1, 1),
}


@pytest.mark.parametrize("call", REFUSED_TOO.values(), ids=REFUSED_TOO.keys())
def test_odd_calls_are_refused_as_unsupported_too(call):
    with pytest.raises(I2PError):
        call(image_to_plane(IMAGES))


def test_a_cloud_without_border_has_no_size_to_sample_to():
    with pytest.raises(UnsupportedError, match=r"\(8, 8\): a cloud without a border"):
        F.interpolate(pooled(random_cloud(2)), size=(8, 8))


def test_a_registered_function_runs_and_registering_it_twice_is_an_error():
    x = random_cloud(2)
    with pytest.raises(UnsupportedError, match="sinc"):
        torch.sinc(x)
    try:

        @sparse_op(torch.sinc, torch.Tensor.sinc)
        def sinc(x):
            return x.derive(torch.sinc(x.features))

        assert torch.equal(torch.sinc(x).features, torch.sinc(x.features))
        assert torch.equal(x.sinc().features, torch.sinc(x.features))
        with pytest.raises(I2PError, match=r"sinc.*handler already"):
            sparse_op(torch.sinc)(lambda x: x)
        with pytest.raises(I2PError, match=r"relu.*handler already"):
            sparse_op(torch.erfinv, torch.relu)(lambda x: x)
        assert torch.erfinv not in _handlers, "nothing is registered where one function was"
        assert torch.equal(torch.sinc(x).features, torch.sinc(x.features))
    finally:
        for function in (torch.sinc, torch.Tensor.sinc, torch.erfinv):
            _handlers.pop(function, None)
