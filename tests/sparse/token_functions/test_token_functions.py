"""Every function of tokens against torch on the image that lies on the plane: values and gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import I2PError, InvalidInputError, SparseTensor, UnsupportedError, image_to_plane
from tests.helpers import random_images, relative_error
from tests.oracles import as_dense, check_as_image

IMAGES = random_images(2, 4, 6, 8)
CLASS = random_images(2, 3, 4, seed=1)


def sequence(x):
    """(B, C, H, W) as (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def windows(x):
    """(B, C, H, W) as (B * windows, 3 * 4, C)."""
    return x.view(2, 4, 2, 3, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(8, 12, 4)


def with_class_tokens(x):
    return torch.cat([CLASS[:, :1], sequence(x)], 1)


LAYOUTS = {"sequence": sequence, "windows": windows, "class tokens": with_class_tokens}
ON_LAYOUTS = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())

VALUES = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu in place": lambda x: F.silu(x * 1, inplace=False),
    "relu_": lambda x: (x * 1).relu_(),
    "sigmoid_": lambda x: torch.sigmoid_(x * 1),
    "clamp": lambda x: x.clamp(-0.5, max=0.5),
    "softplus": lambda x: F.softplus(x, beta=2.0),
    "power": lambda x: x**2,
    "minus": lambda x: -x,
    "sin and cos": lambda x: x.sin() * x.cos(),
    "clone": lambda x: x.clone(memory_format=torch.contiguous_format),
    "contiguous": lambda x: x.contiguous(),
    "dropout, switched off": lambda x: F.dropout(x, 0.5, False),
}
ARITHMETIC = {
    "numbers": lambda x: 2 * (1 - x) / 4 + 3,
    "a number divided": lambda x: 1 / (x * x + 1),
    "two": lambda x: x * (x * 0.3).sigmoid() - x,
    "alpha": lambda x: torch.add(x, x * 2, alpha=0.5),
    "subtracted with alpha": lambda x: torch.sub(x, x.relu(), alpha=3),
    "channels": lambda x: x * torch.arange(4).double() + torch.ones(4).double(),
    "a sample's": lambda x: x + torch.arange(1.0, x.shape[0] + 1).double()[:, None, None],
    "a table of places": lambda x: x + random_images(1, x.shape[1], 4),
    "in place": lambda x: (x * 1).mul_(2).add_(x).sub_(1).div_(3),
    "in place with a table": lambda x: (x * 1).add_(random_images(x.shape[1], 4)),
    "augmented": lambda x: _augmented(x * 1),
    "the larger": lambda x: torch.maximum(x, x * 2),
    "the smaller": lambda x: torch.minimum(x, -x),
    "addcmul": lambda x: torch.addcmul(x, x, torch.arange(4).double(), value=2),
    "masked": lambda x: x.masked_fill(random_images(x.shape[1], 1) > 0, 0.5),
}
DIMENSIONS = {
    "heads": lambda x: x.reshape(x.shape[0], -1, 2, 2).transpose(1, 2),
    "view_as": lambda x: x.unflatten(2, (2, 2)).view_as(x),
    "permute by a list": lambda x: x.permute([2, 0, 1]),
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "movedim": lambda x: torch.movedim(x, 2, 0),
    "squeeze": lambda x: x.unsqueeze(1).unsqueeze(-1).squeeze(),
    "squeeze one": lambda x: x[:, None].squeeze(1),
    "expand": lambda x: x.mean(2, keepdim=True).expand(-1, -1, 3),
    "expand in front": lambda x: x.expand(2, *x.shape),
    "expand_as": lambda x: x.mean(2, keepdim=True).expand_as(x) + x,
    "repeat": lambda x: x.mean(2, keepdim=True).repeat(1, 1, 5),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2),
}
PARTS = {
    "chunk": lambda x: x.chunk(3, -1),
    "split": lambda x: torch.split(x, [1, 3], dim=2),
    "split by a length": lambda x: x.split(3, dim=2),
    "split_with_sizes": lambda x: torch.split_with_sizes(x, [2, 2], 2),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=2),
    "tensor_split at indices": lambda x: x.tensor_split([1, 2], 2),
    "unbind": lambda x: x.unbind(2),
    "select": lambda x: x.select(2, -1),
    "narrow": lambda x: x.narrow(2, 1, 2),
    "slices": lambda x: x[..., 1:3],
    "steps": lambda x: x[:, :, ::2],
    "one channel": lambda x: x[..., -2],
    "channels by a list": lambda x: x[..., [3, 0, -1]],
    "channels by a tensor": lambda x: x[:, :, torch.tensor([1, 1])],
    "new dimensions": lambda x: x[:, None, :, None, 1],
    "joined": lambda x: torch.cat([x, x * 2, x[..., :1]], -1),
    "joined to a table": lambda x: torch.cat([random_images(x.shape[1], 2).expand(x.shape[0], -1, -1), x], 2),
    "stacked": lambda x: torch.stack([x, x * 2], -1),
    "stacked before": lambda x: torch.stack([x, x * 2, -x], 0),
    "padded channels": lambda x: F.pad(x, (1, 2), value=0.5),
}
REDUCTIONS = {
    f"{name} over {dim}, {'kept' if keepdim else 'gone'}": lambda x, n=name, d=dim, k=keepdim: getattr(x, n)(dim=d, keepdim=k)
    for name in ("sum", "mean", "amax", "var", "norm")
    for dim in (1, 2, -1, (1, 2))
    for keepdim in (False, True)
} | {
    "var, biased": lambda x: torch.var(x, 1, unbiased=False),
    "var, corrected": lambda x: x.var((1, 2), correction=2),
    "maximum of channels": lambda x: x.max(2).values,
    "maximum of channels, kept": lambda x: x.max(2, keepdim=True).values,
    "maximum of two": lambda x: torch.max(x, -x),
    "softmax of channels": lambda x: x.softmax(-1),
    "softmax of tokens": lambda x: F.softmax(x, dim=1),
    "normalised": lambda x: F.normalize(x, dim=-1),
    "normalised over tokens": lambda x: F.normalize(x, dim=1),
}
LAYERS = {
    "linear": lambda x: F.linear(x, random_images(3, 4), random_images(3)),
    "layer_norm": lambda x: F.layer_norm(x, (4,), random_images(4), random_images(4, seed=2), 1e-3),
    "layer_norm without weight": lambda x: F.layer_norm(x, [4]),
    "layer_norm of heads": lambda x: F.layer_norm(x.unflatten(2, (2, 2)), (2,)),
    "rms_norm": lambda x: F.rms_norm(x, (4,), random_images(4), 1e-4),
    "conv1d": lambda x: F.conv1d(x.transpose(1, 2), random_images(3, 4, 1), random_images(3)),
    "batch_norm": lambda x: F.batch_norm(x.transpose(1, 2), None, None, random_images(4), random_images(4, seed=2), True),
    "batch_norm by statistics": lambda x: F.batch_norm(x.transpose(1, 2), random_images(4), random_images(4).abs() + 0.1),
    "group_norm": lambda x: F.group_norm(x.transpose(1, 2), 2, random_images(4), random_images(4, seed=2)),
    "dropout2d, switched off": lambda x: F.dropout2d(x.transpose(1, 2).unsqueeze(2), 0.5, False),
}
TABLE = {
    f"{kind}: {name}": function
    for kind, functions in (
        ("values", VALUES),
        ("arithmetic", ARITHMETIC),
        ("dimensions", DIMENSIONS),
        ("parts", PARTS),
        ("reductions", REDUCTIONS),
        ("layers", LAYERS),
    )
    for name, function in functions.items()
}


def _augmented(x):
    x *= 2
    x += 1
    x -= 0.5
    x /= 3
    return x


@ON_LAYOUTS
@pytest.mark.parametrize("function", TABLE.values(), ids=TABLE.keys())
def test_a_function_of_tokens_is_that_of_the_tensor(function, layout):
    check_as_image(lambda x: function(layout(x)), IMAGES, tolerance=1e-11)


@pytest.mark.parametrize("axis", ["y", "x"])
@pytest.mark.parametrize("function", TABLE.values(), ids=TABLE.keys())
def test_a_function_of_tokens_on_another_plane_is_that_of_the_tensor(function, axis):
    check_as_image(lambda x: function(windows(x)), IMAGES, axis=axis, tolerance=1e-11)


ON_IMAGES = {
    "class tokens": lambda x: torch.cat([CLASS, sequence(x)], 1),
    "class tokens in two steps": lambda x: torch.cat([CLASS[:, :1], torch.cat([CLASS[:, 1:], sequence(x)], 1)], 1),
    "class tokens of none": lambda x: torch.cat([CLASS[:, :0], sequence(x)], 1),
    "class tokens cut off": lambda x: torch.cat([CLASS, sequence(x)], 1)[:, 3:].transpose(1, 2).reshape(x.shape),
    "some class tokens cut off": lambda x: torch.cat([CLASS, sequence(x)], 1)[:, 1:] * 2,
    "class tokens of the image": lambda x: torch.cat([sequence(x).mean(1, keepdim=True), sequence(x)], 1)[:, :1],
    "one class token": lambda x: with_class_tokens(x)[:, 0],
    "class tokens and the rest": lambda x: torch.cat([CLASS, sequence(x)], 1).split([3, 48], 1),
    "tokens padded in front": lambda x: F.pad(sequence(x), (0, 0, 2, 0), value=0.25),
    "rolled and back": lambda x: torch.roll(torch.roll(x, (-2, 3), (2, 3)), (2, -3), dims=(2, 3)),
    "rolled, each value": lambda x: torch.roll(x, -1, 2).exp(),
    "cropped": lambda x: x.permute(0, 2, 3, 1)[:, 1:5, 2:],
    "padded": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 0, 3)),
    "padded and cropped": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 0, 3))[:, :6, 1:9] + x.permute(0, 2, 3, 1),
    "cropped by padding": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, -1, 2)),
    "every second": lambda x: x[:, :, ::2, ::2],
    "every second, channels last": lambda x: x.permute(0, 2, 3, 1)[:, ::3, ::2],
    "places as channels": lambda x: x.reshape(2, 4, 3, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).flatten(3) @ random_images(16, 3),
    "mixing all places": lambda x: F.linear(x.flatten(2), random_images(5, 48)),
    "norm of all places": lambda x: F.layer_norm(x.flatten(2), (48,)),
    "norm of rows": lambda x: F.rms_norm(x, (8,)),
    "group_norm of images": lambda x: F.group_norm(x.unflatten(1, (2, 2)).transpose(0, 1).flatten(0, 1), 2),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "adaptive pooling that overlaps": lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive pooling of a side": lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
    "maximum of blocks": lambda x: F.max_pool2d(windows(x).transpose(1, 2).unflatten(2, (3, 4)), (3, 2)),
    "mean of blocks": lambda x: F.avg_pool2d(windows(x).transpose(1, 2).unflatten(2, (3, 4)), (1, 2)),
    "runs": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "unfolded": lambda x: F.unfold(x, 2, stride=2),
    "unfolded with overlap": lambda x: F.unfold(x, 3, padding=1),
    "folded": lambda x: F.fold(F.unfold(x, 2, stride=2) * 2, (6, 8), 2, stride=2),
    "folded with overlap": lambda x: F.fold(F.unfold(x, 3, padding=1) * 2, (6, 8), 3, padding=1),
    "halos": lambda x: F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2).mean((4, 5)),
    "bilinear up": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"),
    "bilinear down": lambda x: F.interpolate(x, (3, 4), mode="bilinear"),
    "bicubic up": lambda x: F.interpolate(x, (9, 10), mode="bicubic"),
    "bicubic down": lambda x: F.interpolate(x, (4, 5), mode="bicubic"),
}


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("function", ON_IMAGES.values(), ids=ON_IMAGES.keys())
def test_a_function_of_images_and_their_places_is_that_of_the_tensor(function, axis):
    check_as_image(function, IMAGES, axis=axis, tolerance=1e-11)


def test_branches_of_a_padding_that_is_cropped_away_meet_on_the_same_sites():
    x = image_to_plane(IMAGES).permute(0, 2, 3, 1)
    back = F.pad(x, (0, 0, 2, 1, 1, 1))[:, 1:7, 2:10]
    assert isinstance(back, SparseTensor)
    assert torch.equal((x + back).features, 2 * x.features)


def test_the_index_of_the_maximum_channel_is_that_of_the_tensor():
    x = sequence(image_to_plane(IMAGES))
    for keepdim in (False, True):
        assert torch.equal(as_dense(x.max(2, keepdim).indices), sequence(IMAGES).max(2, keepdim).indices)
    assert x.max(1).indices is None, "sites have no number"


@pytest.mark.parametrize("name", ["relu_", "sigmoid_", "tanh_", "hardtanh_", "elu_", "leaky_relu_", "clamp_"])
def test_a_function_in_place_writes_into_the_values_and_returns_the_tensor(name):
    x = sequence(image_to_plane(IMAGES.clone()))
    block, arguments = x.blocks[0], (0.1,) if name == "clamp_" else ()
    function = getattr(torch, name, None) or getattr(F, name)
    expected = function(IMAGES.clone(), *arguments)
    assert function(x, *arguments) is x
    assert x.blocks[0] is block
    assert torch.equal(as_dense(x), sequence(expected))


def test_arithmetic_in_place_changes_what_shares_its_memory():
    x = image_to_plane(IMAGES.clone())
    x.flatten(2).transpose(1, 2).add_(1)
    assert torch.equal(as_dense(x), IMAGES + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32_and_rounded_once(dtype):
    images = (random_images(1, 2, 64, 64).abs() * 20 + 20).to(
        dtype
    )  # sums of squares beyond float16, of 1,024 bfloat16's few bits
    x = sequence(image_to_plane(images))
    for function in (
        lambda t: t.mean(1),
        lambda t: t.mean((1, 2)),
        lambda t: t.norm(dim=1),
        lambda t: t.var(1),
        lambda t: F.normalize(t, dim=1),
        lambda t: F.group_norm(t.transpose(1, 2), 2),
        lambda t: t.unflatten(1, (64, 64)).mean(1),
        lambda t: F.linear(t.transpose(1, 2), torch.full((1, 4096), 1 / 4096).to(t.dtype)),
    ):
        found, truth = function(x), function(sequence(images.double()))
        assert found.dtype == dtype
        assert relative_error(as_dense(found), truth) < (2e-3 if dtype == torch.float16 else 1e-2)


def test_a_sum_may_be_asked_for_in_a_wider_type():
    x = sequence(image_to_plane(IMAGES.float()))
    assert (
        relative_error(as_dense(x.sum(1, dtype=torch.float64)), IMAGES.float().flatten(2).sum(2, dtype=torch.float64)) < 1e-15
    )
    assert as_dense(x.softmax(-1, dtype=torch.float64)).dtype == torch.float64


REFUSED = {
    "a sum of samples": (lambda x: x.sum(0), UnsupportedError, "joins the samples"),
    "the mean of all": (lambda x: x.mean(), UnsupportedError, "joins the samples"),
    "one token": (lambda x: x[:, 3], UnsupportedError, r"Entry 3 of dimension 1 of TokenTensor\(.*got \(y x\)"),
    "some tokens": (lambda x: x[:, 3:9], UnsupportedError, r"Slice 3:9 of dimension 1 of .*got \(y x\)"),
    "every second token": (lambda x: x[:, ::2], UnsupportedError, r"Slice 0:48:2 of dimension 1"),
    "one sample": (lambda x: x[0], UnsupportedError, "Entry 0 of dimension 0"),
    "an entry beyond": (lambda x: x[..., 4], InvalidInputError, "Entry 4 of dimension 2.*it has 4"),
    "too many indices": (lambda x: x[:, :, :, :], InvalidInputError, "4 indices.*3 dimensions"),
    "by a mask": (lambda x: x[..., torch.tensor([True, False, True, True])], UnsupportedError, r"torch\.bool"),
    "lengths of another sum": (lambda x: x.split([1, 2], 2), InvalidInputError, r"into \[1, 2\]: expected a sum of 4"),
    "tokens behind": (lambda x: torch.cat([x, CLASS], 1), UnsupportedError, "class tokens stand before"),
    "tokens of two images": (lambda x: torch.cat([x, x], 1), UnsupportedError, "`cat` along dimension 1.*there is one image"),
    "class tokens of windows": (
        lambda x: torch.cat([torch.zeros(4, 1, 4), x.unflatten(1, (2, 24)).flatten(0, 1)], 1),
        UnsupportedError,
        r"expected dimensions \(batch, tokens, \.\.\.\); got \(b y/3\)",
    ),
    "a roll of tokens": (
        lambda x: x.roll(1, 1),
        UnsupportedError,
        r"`roll` along dimension 1.*expected the whole.*got \(y x\)",
    ),
    "a roll of all": (lambda x: x.roll(1), UnsupportedError, "`roll` .*along None"),
    "mirrored": (lambda x: F.pad(x, (1, 1), mode="reflect"), UnsupportedError, r"\(1, 1\) with mode='reflect'"),
    "padded behind": (lambda x: F.pad(x, (0, 0, 0, 1)), UnsupportedError, "only before them"),
    "repeated tokens": (lambda x: x.repeat(1, 2, 1), UnsupportedError, r"`repeat` .*\(1, 2, 1\)"),
    "expanded channels": (lambda x: x.expand(2, 48, 8), InvalidInputError, r"to \(2, 48, 8\).*extent 1"),
    "a batch squeezed": (
        lambda x: image_to_plane(IMAGES[:1]).flatten(2).squeeze(0),
        UnsupportedError,
        "stays, also of extent 1",
    ),
    "another norm": (lambda x: x.norm(1, dim=1), UnsupportedError, "`norm` .*p=1: only the Euclidean"),
    "a convolution along tokens": (
        lambda x: F.conv1d(x.transpose(1, 2), torch.zeros(4, 4, 3)),
        UnsupportedError,
        r"`conv1d` by a dense weight of shape \(4, 4, 3\).*i2p_zoo\.replaces",
    ),
    "a strided convolution": (
        lambda x: F.conv1d(x.transpose(1, 2), torch.zeros(4, 4, 1).double(), stride=2),
        UnsupportedError,
        "stride 1",
    ),
    "channels of another number": (lambda x: F.linear(x, torch.zeros(3, 5)), UnsupportedError, "`linear` of 5 channels"),
    "norm of two dimensions": (lambda x: F.layer_norm(x, (48, 4)), UnsupportedError, r"\(48, 4\).*expected the last one"),
    "groups that do not divide": (lambda x: F.group_norm(x.transpose(1, 2), 3), InvalidInputError, "4 channels in 3 groups"),
    "runs that overlap": (lambda x: F.avg_pool1d(x.transpose(1, 2), 4, 2), UnsupportedError, "by 4 at stride 2"),
    "tokens to a power": (lambda x: 2 * torch.pow(2, x), UnsupportedError, "`pow` takes tokens as its first argument"),
    "tokens into a dense tensor": (lambda x: torch.zeros(2, 48, 4).add_(x), UnsupportedError, "`add_` cannot write"),
    "more into fewer": (lambda x: x.mean(2, keepdim=True).add_(x), UnsupportedError, r"`add_`.*\(2, 48, 4\), does not fit"),
    "rows for columns": (
        lambda x: x.unflatten(1, (6, 8))[:, :, :6] + x.unflatten(1, (6, 8))[:, :, :6].transpose(1, 2),
        I2PError,
        "not of the same sides",
    ),
    "rows for columns, joined": (
        lambda x: torch.cat([x.unflatten(1, (6, 8))[:, :, :6], x.unflatten(1, (6, 8))[:, :, :6].transpose(1, 2)], 3),
        I2PError,
        "`cat` along dimension 3.*the same tokens in the same dimensions",
    ),
    "a window that is stretched": (
        lambda x: F.interpolate(x.unsqueeze(1), scale_factor=2),
        UnsupportedError,
        "expected .batch",
    ),
    "windows summed to another size": (
        lambda x: F.fold(F.unfold(image_to_plane(IMAGES), 2, stride=2), (7, 8), 2, stride=2),
        UnsupportedError,
        r"`fold` .*\(7, 8\)",
    ),
    "viewed as a type": (lambda x: x.view(torch.int64), UnsupportedError, r"`view` .*\.to\(dtype\)"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_tokens_cannot_express_is_refused_with_its_shapes(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call(sequence(image_to_plane(IMAGES)))
    assert "Atom(" not in str(raised.value)


SPARSE = torch.tensor([[0, 0, 1, 1], [2, 1, 5, 2], [2, 0, 0, 7]], dtype=torch.int32)  # a sample of one voxel, an empty one, two


ACROSS_SAMPLES = {"arithmetic: a sample's", "layers: batch_norm"}  # the one counts samples, the other joins them
ALONE = {name: function for name, function in TABLE.items() if name not in ACROSS_SAMPLES}


@pytest.mark.parametrize("function", ALONE.values(), ids=ALONE.keys())
def test_a_sample_of_few_voxels_beside_an_empty_one_is_what_it_is_alone(function):
    def run(keep, batch_size):
        coords = SPARSE[keep].clone()
        coords[:, 0] = coords[:, 0] if batch_size == 3 else 0
        x = SparseTensor(random_images(3, 4)[keep], coords, batch_size=batch_size, spatial_shape=(2, 6, 8))
        results = function(sequence(x))
        return [as_dense(result) for result in (results if isinstance(results, tuple) else [results])]

    together = run([0, 1, 2], 3)
    for sample, keep in ((0, [0]), (2, [1, 2])):
        for alone, result in zip(run(keep, 1), together, strict=True):
            if (result.shape[0], alone.shape[0]) == (3, 1):
                assert torch.allclose(result[sample], alone[0], rtol=1e-12, atol=1e-12, equal_nan=True)
