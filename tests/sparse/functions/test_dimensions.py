"""Joining, splitting, permuting, reshaping and indexing, against the same calls on the image that lies on the plane."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import I2PError, InvalidInputError, UnsupportedError, image_to_plane
from i2p_zoo.sparse.tensor import UNBOUNDED
from tests.helpers import check_on_plane, random_cloud, random_images
from tests.oracles import check_as_image, check_channels_last, check_on_samples, first, last

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
IMAGES = random_images(2, 4, 6, 5)

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


PERMUTATIONS = {
    "to the end and back": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "by negative numbers": lambda x: x.permute(0, -2, -1, -3).permute(0, -1, 1, -2),
    "by a list and a tuple": lambda x: x.permute([0, 2, 3, 1]).permute((0, 3, 1, 2)),
    "torch.permute": lambda x: torch.permute(torch.permute(x, (0, 2, 3, 1)), [0, 3, 1, 2]),
    "nothing": lambda x: x.permute(0, 1, 2, 3),
    "nothing behind": lambda x: first(last(x).permute(0, 1, 2, -1)),
    "folded behind": lambda x: first(last(x).reshape(2, 6, 5, 2, 2).permute(0, 1, 2, 4, 3)).reshape(2, 4, 6, 5),
    "a shuffle": lambda x: x.reshape(2, 2, 2, 6, 5).transpose(1, 2).reshape(2, 4, 6, 5),
    "a transposition from behind": lambda x: x.view(2, 2, 2, 6, 5).transpose(-4, -3),
    "torch.transpose": lambda x: torch.transpose(x.view(2, 1, 4, 6, 5), 2, 1),
    "swapaxes": lambda x: x.view(2, 4, 1, 6, 5).swapaxes(1, 2),
    "a transposition in the other layout": lambda x: first(last(x).reshape(2, 6, 5, 1, 4).transpose(3, -1)),
    "of one channel dropped": lambda x: x.mean(1).permute(0, 1, 2),
}


@AXES
@pytest.mark.parametrize("function", PERMUTATIONS.values(), ids=PERMUTATIONS.keys())
def test_permuting_channels_is_that_of_the_image(function, axis):
    check_on_plane(function, IMAGES, axis=axis)


@pytest.mark.parametrize("channels", [(4,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("layout", [lambda x: x, last], ids=["first", "last"])
def test_every_permutation_is_the_images_and_a_cloud_takes_those_that_keep_height_and_width_together(layout, channels):
    cloud = random_cloud(torch.Size(channels).numel())
    images = random_images(2, torch.Size(channels).numel(), 3, 4)
    start = layout(images.reshape(2, *channels, 3, 4))
    height = 1 if layout is last else start.ndim - 2
    for order in permutations(range(start.ndim)):
        at = order.index(height)
        if order[0] == 0 and order[at + 1 : at + 2] == (height + 1,) and at in (1, start.ndim - 2):
            back = first if at == 1 else lambda x: x
            check_on_plane(lambda x, o=order, b=back: b(layout(x.reshape(2, *channels, 3, 4)).permute(o)), images)
            continue
        check_as_image(lambda x, o=order: layout(x.reshape(2, *channels, 3, 4)).permute(o), images)
        with pytest.raises(UnsupportedError, match="the batch stays first"):
            layout(cloud.reshape(2, *channels, UNBOUNDED, UNBOUNDED)).permute(order)


def test_the_shape_in_either_layout_is_that_of_the_image_and_unbounded_for_a_cloud():
    for x, extent in ((image_to_plane(IMAGES), (6, 5)), (random_cloud(4), (UNBOUNDED, UNBOUNDED))):
        behind = last(x)
        folded = behind.reshape(2, *extent, 2, 2)
        for y, shape in (
            (x, (2, 4, *extent)),
            (behind, (2, *extent, 4)),
            (folded, (2, *extent, 2, 2)),
            (first(folded), (2, 2, 2, *extent)),
            (behind.mean(-1), (2, *extent)),
        ):
            assert (y.shape, y.size(), y.dim(), y.ndim, len(y)) == (shape, shape, len(shape), len(shape), 2)
            assert tuple(map(y.size, range(-y.ndim, y.ndim))) == shape * 2


CHANNELS_BEHIND = {
    "cat": lambda x: torch.cat([x, x * 2, x[..., :1]], -1),
    "cat of folded channels": lambda x: torch.cat([x.unsqueeze(3)] * 2, 3),
    "stack": lambda x: torch.stack([x, x * 2, x * 3], 3),
    "stack behind": lambda x: torch.stack([x, x * 2], dim=-1),
    "chunk": lambda x: x.chunk(2, 3),
    "torch.chunk": lambda x: torch.chunk(x, 3, dim=-1),
    "split": lambda x: x.split(3, -1),
    "torch.split": lambda x: torch.split(x, [1, 3], dim=3),
    "tensor_split": lambda x: torch.tensor_split(x, 3, dim=-1),
    "unbind": lambda x: x.unbind(-1),
    "unbind and stack": lambda x: torch.stack(x.unbind(3)[::-1], 3),
    "softmax": lambda x: x.softmax(-1),
    "F.softmax": lambda x: F.softmax(x, dim=3),
    "unsqueeze": lambda x: x.unsqueeze(3),
    "unsqueeze behind": lambda x: torch.unsqueeze(x, -1),
    "one channel": lambda x: x[..., 1],
    "a range of channels": lambda x: x[..., 1:3],
    "channels by a list": lambda x: x[:, :, :, [2, 0, 2]],
    "channels by a tensor": lambda x: x[..., torch.tensor([3, 1])],
    "a new channel dimension": lambda x: x[:, :, :, None],
    "the maximum channel": lambda x: x.max(-1).values,
}
FOLDED_BEHIND = {
    "reshape": lambda x: x.reshape(2, 6, 5, 2, 2),
    "reshape of a size": lambda x: x.reshape((2, 6, 5, -1, 2)),
    "reshape back": lambda x: x.view(2, 6, 5, 2, 2).reshape(-1, 6, 5, 4),
    "softmax of folded channels": lambda x: torch.softmax(x.view(2, 6, 5, 2, 2), dim=3),
    "unbind of folded channels": lambda x: x.view(2, 6, 5, 2, 2).unbind(4),
    "one channel of folded ones": lambda x: x.view(2, 6, 5, 2, 2)[:, :, :, 1],
    "a channel of each fold": lambda x: x.view(2, 6, 5, 2, 2)[..., 0],
    "a crop": lambda x: x[:, 1:4, 2:5],
    "a crop from behind": lambda x: x[:, -3:, :-1, :],
    "a crop of rows": lambda x: x[:, 2:],
    "a crop of columns": lambda x: x[:, :, 1:],
    "a crop after an ellipsis": lambda x: x[..., 1:, :],
    "channels and a crop": lambda x: x[:, :-1, 1:, 1:3],
    "a crop of folded channels": lambda x: x.view(2, 6, 5, 2, 2)[:, 1:, :-2, 0],
}


@AXES
@pytest.mark.parametrize(
    "function", [*CHANNELS_BEHIND.values(), *FOLDED_BEHIND.values()], ids=[*CHANNELS_BEHIND, *FOLDED_BEHIND]
)
def test_channels_behind_height_and_width_are_joined_split_folded_and_cropped_as_those_of_images(function, axis):
    check_channels_last(function, IMAGES, axis=axis)


@pytest.mark.parametrize("function", CHANNELS_BEHIND.values(), ids=CHANNELS_BEHIND.keys())
def test_the_channels_of_a_cloud_are_those_of_each_voxel_in_either_layout(function):
    check_on_samples(lambda x: function(last(x)), random_cloud(4, batch_size=3))


def test_permuting_a_cloud_moves_no_voxel():
    x = random_cloud(6)
    for y in (last(x), first(last(x)), x.reshape(2, 2, 3, UNBOUNDED, UNBOUNDED).transpose(1, 2)):
        assert y.coords is x.coords
    assert torch.equal(y.features, x.features.unflatten(1, (2, 3)).transpose(1, 2))


REFUSED = {
    "cat of samples": (lambda x: torch.cat([x, x]), UnsupportedError, "`cat` along dimension 0"),
    "cat of rows": (lambda x: torch.cat([x, x], 2), UnsupportedError, "`cat` along dimension 2.*1 to 1"),
    "chunks of samples": (lambda x: x.chunk(2), UnsupportedError, "`chunk` along dimension 0"),
    "samples one by one": (lambda x: x.unbind(), UnsupportedError, "`unbind` along dimension 0"),
    "one sample": (lambda x: x[0], UnsupportedError, "with 0: only channels"),
    "some samples": (lambda x: x[:1], UnsupportedError, "only channels"),
    "every second row": (lambda x: x[:, :, ::2], UnsupportedError, "steps of 1"),
    "one column": (lambda x: x[..., 0], UnsupportedError, "only channels"),
    "rows by a tensor": (lambda x: x[:, :, torch.tensor([0, 1])], UnsupportedError, "only channels"),
    "no rows": (lambda x: x[:, :, 3:3], InvalidInputError, r"\(1, 0, 5\)"),
    "a loop over samples": (lambda x: list(x), UnsupportedError, "only channels"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(IMAGES))


OF_TOKENS = {
    "cat with a dense tensor": (lambda x: torch.cat([x, IMAGES], 1), r"`cat`.*\(2, 4, 6, 5\)"),
    "stack with a dense tensor": (lambda x: torch.stack([IMAGES, x], 1), r"`stack`.*\(2, 4, 6, 5\)"),
    "stack of samples": (lambda x: torch.stack([x, x]), "`stack` along dimension 0.*1 to 2"),
    "stack behind the image": (lambda x: torch.stack([x, x], 4), "`stack` along dimension 4"),
    "splits of rows": (lambda x: x.split(3, dim=-2), "`split` along dimension -2"),
    "softmax over columns": (lambda x: x.softmax(-1), "`softmax` along dimension -1"),
    "unsqueeze before the batch": (lambda x: x.unsqueeze(0), "`unsqueeze` along dimension 0"),
    "unsqueeze of the image": (lambda x: x.unsqueeze(4), "`unsqueeze` along dimension 4"),
    "reshape of the image": (lambda x: x.reshape(2, 4, 30), r"to \(2, 4, 30\)"),
    "reshape of rows": (lambda x: x.reshape(2, 8, 3, 5), r"to \(2, 8, 3, 5\)"),
    "reshape of the batch": (lambda x: x.view(1, 8, 6, 5), r"to \(1, 8, 6, 5\)"),
}


@pytest.mark.parametrize(("call", "message"), OF_TOKENS.values(), ids=OF_TOKENS.keys())
def test_what_sites_cannot_express_is_the_images_on_tokens_and_refused_where_nothing_has_an_extent(call, message):
    check_as_image(call, IMAGES)
    with pytest.raises(UnsupportedError, match=message):
        call(random_cloud(4))


REFUSED_BEHIND = {
    "cat of rows": (lambda x: torch.cat([x, x], 1), r"`cat` along dimension 1 .*\(2, 6, 5, 4\).*3 to 3"),
    "samples one by one": (lambda x: x.unbind(), "`unbind` along dimension 0"),
    "reshape to the front": (lambda x: x.reshape(2, 4, 6, 5), r"to \(2, 4, 6, 5\)"),
    "one row": (lambda x: x[:, 0], "only channels"),
    "every second column": (lambda x: x[:, :, ::2], "steps of 1"),
    "some samples": (lambda x: x[:1], "only channels"),
    "a window": (lambda x: F.max_pool2d(x, 2), r"\(2, 6, 5, 4\): it needs channels before"),
    "up-sampling": (lambda x: F.interpolate(x, scale_factor=2), "`interpolate`.*needs channels before"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED_BEHIND.values(), ids=REFUSED_BEHIND.keys())
def test_what_has_no_meaning_on_sites_with_channels_behind_is_refused(call, message):
    with pytest.raises(UnsupportedError, match=message):
        call(last(image_to_plane(IMAGES)))


OF_TOKENS_BEHIND = {
    "stack of columns": (lambda x: torch.stack([x, x], 2), "`stack` along dimension 2.*3 to 4"),
    "chunks of columns": (lambda x: x.chunk(2, -2), "`chunk` along dimension -2"),
    "splits of rows": (lambda x: x.split(3, dim=1), "`split` along dimension 1"),
    "softmax over columns": (lambda x: x.softmax(2), "`softmax` along dimension 2"),
    "unsqueeze before the image": (lambda x: x.unsqueeze(1), "`unsqueeze` along dimension 1"),
    "the image as a sequence": (lambda x: x.reshape(2, 30, 4), r"to \(2, 30, 4\)"),
    "reshape of rows": (lambda x: x.reshape(2, 3, 10, 4), r"to \(2, 3, 10, 4\)"),
    "rows for columns": (lambda x: x.transpose(1, 2), "`permute`.*stay together"),
    "the batch among channels": (lambda x: x.transpose(0, 3), "`permute`.*stays first"),
    "padding": (lambda x: F.pad(x, (1, 1)), "`pad`.*needs channels before"),
    "pooling the image": (lambda x: F.adaptive_avg_pool2d(x, 1), "`adaptive_avg_pool2d`.*needs channels before"),
}


@pytest.mark.parametrize(("call", "message"), OF_TOKENS_BEHIND.values(), ids=OF_TOKENS_BEHIND.keys())
def test_what_sites_with_channels_behind_cannot_express_is_the_images_on_tokens(call, message):
    check_as_image(lambda x: call(last(x)), IMAGES)
    with pytest.raises(UnsupportedError, match=message):
        call(last(random_cloud(4)))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 3, 3), (0, 2, 3, 4), (0, 1, 2, 3, 4)], ids=str)
def test_what_is_no_permutation_is_quoted(order):
    with pytest.raises(InvalidInputError, match=r"which has 4 dimensions, by .*not a permutation"):
        image_to_plane(IMAGES).permute(order)


SQUARE = random_images(2, 4, 4, 4)
MIXED = {
    "cat": lambda x: torch.cat([x, last(x)], 1),
    "stack": lambda x: torch.stack([x, last(x)], 1),
}


@pytest.mark.parametrize("call", MIXED.values(), ids=MIXED.keys())
def test_tensors_of_two_layouts_do_not_mix(call):
    with pytest.raises(I2PError):
        call(image_to_plane(SQUARE))


NEW_DIMENSIONS = {
    "before a crop": lambda x: x[:, None, :, 1:],
    "before a crop between": lambda x: x[:, None, :, 1:, :],
    "behind the last channel": lambda x: first(last(x)[..., None]),
    "before the last channel": lambda x: first(last(x)[..., None, :]),
}


@pytest.mark.parametrize("function", NEW_DIMENSIONS.values(), ids=NEW_DIMENSIONS.keys())
def test_a_new_dimension_in_an_index_is_that_of_the_image(function):
    check_on_plane(function, IMAGES)
