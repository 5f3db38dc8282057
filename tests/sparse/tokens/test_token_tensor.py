"""Tokens seen as a tensor: chains of rearrangements as torch does them, dtypes, refusals and what a tensor is asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from i2p_zoo import I2PError, InvalidInputError, SparseTensor, TokenTensor, UnsupportedError, image_to_plane, token_op
from i2p_zoo.sparse.dispatch import _token_handlers
from tests.helpers import property_test, random_cloud, random_images
from tests.oracles import as_dense, check_as_image

IMAGES = random_images(2, 4, 6, 8)


def divisors(size):
    return [d for d in range(1, size + 1) if size % d == 0]


def draw_step(data, x):
    """A rearrangement that torch does on a dense tensor, drawn for its shape."""
    name = data.draw(
        st.sampled_from("reshape permute transpose flatten unflatten unsqueeze squeeze split chunk select cat".split())
    )
    dim = data.draw(st.integers(0, x.ndim - 1))
    if name == "permute":
        order = data.draw(st.permutations(range(x.ndim)))
        return lambda t: t.permute(order)
    if name == "transpose":
        other = data.draw(st.integers(-x.ndim, x.ndim - 1))
        return lambda t: t.transpose(dim, other)
    if name == "flatten":
        end = data.draw(st.integers(dim, x.ndim - 1))
        return lambda t: t.flatten(dim, end)
    if name == "unflatten":
        high = data.draw(st.sampled_from(divisors(x.shape[dim])))
        return lambda t: t.unflatten(dim, (high, -1))
    if name == "reshape":
        high = data.draw(st.sampled_from(divisors(x.shape[dim])))
        shape = (*x.shape[:dim], high, x.shape[dim] // high, *x.shape[dim + 1 :])
        return lambda t: t.reshape(shape)
    if name == "unsqueeze":
        return lambda t: t.unsqueeze(dim)
    if name == "squeeze":
        return lambda t: t.squeeze(dim)
    if name == "split":
        length = data.draw(st.integers(1, x.shape[dim]))
        return lambda t: t.split(length, dim)[0]
    if name == "chunk":
        return lambda t: t.chunk(2, dim)[-1]
    if name == "select":
        return lambda t: t.select(dim, 0)
    return lambda t: torch.cat([t, t * 2], dim)


@given(data=st.data(), batch=st.integers(1, 3), axis=st.sampled_from("zyx"))
@property_test
def test_any_chain_of_rearrangements_is_torchs_or_refused(data, batch, axis):
    """A step that tokens refuse is left out; whatever they take must have torch's shape and, to the bit, its values."""
    images = random_images(batch, 4, 6, 8)
    dense, found = images, image_to_plane(images, axis)
    for _ in range(6):
        if dense.ndim > 7 or dense.numel() > 4096:
            break
        step = draw_step(data, dense)
        try:
            found, dense = step(found), step(dense)
        except I2PError:
            continue
        assert tuple(found.shape) == tuple(dense.shape)
    assert torch.equal(as_dense(found), dense)


CHAINS = {
    "a sequence": lambda x: x.flatten(2).transpose(1, 2),
    "a sequence and back": lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape),
    "windows": lambda x: x.view(2, 4, 3, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4),
    "a grid": lambda x: x.view(2, 4, 2, 3, 2, 4).permute(0, 3, 5, 2, 4, 1).flatten(0, 2),
    "heads": lambda x: x.flatten(2).transpose(1, 2).reshape(2, 48, 2, 2).permute(2, 0, 1, 3).unbind(0),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "channels last, folded": lambda x: x.permute(0, 2, 3, 1).unflatten(3, (2, 2)),
    "the mean of rows": lambda x: x.mean(2),
    "a side of one": lambda x: x.mean(2, keepdim=True).squeeze(1),
    "reversed": lambda x: x.flatten(1, 2).T if x.ndim == 3 else x.flatten(2).mT,
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_what_networks_do_to_dimensions_is_torchs_with_its_gradients(chain, axis):
    check_as_image(chain, IMAGES, axis=axis)


def test_what_is_a_sparse_tensor_again_is_given_back_as_one_on_the_same_sites():
    x = image_to_plane(IMAGES)
    for back in (
        x.flatten(2).unflatten(2, (6, 8)),
        x.view(2, 4, 3, 2, 8).reshape(2, 4, 6, 8),
        x.permute(3, 2, 1, 0).permute(3, 2, 1, 0),
        x.transpose(0, 1).transpose(0, 1),
        x.reshape(1, 8, 6, 8).reshape(2, 4, 6, 8),
        torch.roll(torch.roll(x, (-2, -3), (2, 3)), (2, 3), (2, 3)),
        x[:, :, :, :],
    ):
        assert isinstance(back, SparseTensor)
        assert back.coords is x.coords
        assert torch.equal(back.features, x.features)
        assert (back.shape, back.stride, back.plan, back.spatial_shape) == (x.shape, x.stride, x.plan, x.spatial_shape)
    assert isinstance(x.flatten(2), TokenTensor)


def test_a_tensor_says_what_it_is_made_of():
    x = image_to_plane(IMAGES).flatten(2).transpose(1, 2)
    tokens = torch.cat([torch.zeros(2, 3, 4).double(), x], 1)
    assert repr(tokens) == "TokenTensor(shape=(2, 51, 4), dims='b 3+y*x c', tokens=102, dtype=torch.float64)"
    assert (tokens.ndim, tokens.dim(), len(tokens), tokens.size(1), tokens.numel()) == (3, 3, 2, 51, 408)
    assert (tokens.device, tokens.is_floating_point(), tokens.is_cuda) == (torch.device("cpu"), True, False)


def test_dtypes_change_as_those_of_tensors():
    x = image_to_plane(IMAGES).flatten(2)
    for call, dtype in (
        (lambda t: t.float(), torch.float32),
        (lambda t: t.half(), torch.float16),
        (lambda t: t.bfloat16(), torch.bfloat16),
        (lambda t: t.to(torch.float16), torch.float16),
        (lambda t: t.type(torch.float32), torch.float32),
        (lambda t: t.to(t.float()), torch.float32),
        (lambda t: t.to("cpu", dtype=torch.float32), torch.float32),
        (lambda t: t.type_as(torch.zeros(1)), torch.float32),
        (lambda t: torch.zeros(1).to(t), torch.float64),
        (lambda t: torch.zeros(1).type_as(t), torch.float64),
        (lambda t: t.double(), torch.float64),
    ):
        assert call(x).dtype == dtype
    with pytest.raises(UnsupportedError, match="cannot move to meta: move the cloud itself"):
        x.to("meta")
    for name, call in {"zeros": x.new_zeros, "ones": x.new_ones, "empty": x.new_empty}.items():
        assert (call((2, 3)).dtype, tuple(call(2, 3).shape)) == (torch.float64, (2, 3)), name
    assert x.new_full((1,), 3.0).tolist() == [3.0]


def test_gradients_flow_until_they_are_cut():
    features = IMAGES.clone().requires_grad_()
    x = image_to_plane(features).flatten(2)
    assert x.requires_grad
    assert not x.detach().requires_grad
    assert not torch.detach(x).requires_grad


def test_a_function_without_a_handler_is_named_with_the_way_to_add_one_which_suffices():
    x = image_to_plane(IMAGES).flatten(2)
    message = r"erfinv.* on tokens with \(TokenTensor\(2, 4, 48\)\).*@i2p_zoo\.token_op\(.*erfinv\).*relu"
    with pytest.raises(UnsupportedError, match=message):
        torch.erfinv(x)
    with pytest.raises(AttributeError, match=r"'erfinv'.*@i2p_zoo\.token_op\(torch\.Tensor\.erfinv\)"):
        x.erfinv()
    assert not hasattr(x, "no_such_thing")
    assert not hasattr(x, "data")
    try:

        @token_op(torch.erfinv, Tensor.erfinv)
        def erfinv(x):
            return x.map(torch.erfinv)

        assert torch.equal(as_dense(x.sigmoid().erfinv()), IMAGES.flatten(2).sigmoid().erfinv())
        with pytest.raises(I2PError, match=r"erfinv.*token handler already"):
            token_op(torch.erfinv)(lambda x: x)
    finally:
        for function in (torch.erfinv, Tensor.erfinv):
            _token_handlers.pop(function, None)


def test_arguments_that_a_handler_does_not_take_are_refused_by_name():
    with pytest.raises(
        UnsupportedError, match=r"`torch\.Tensor\.flatten` was called on .* unexpected keyword argument 'order'"
    ):
        image_to_plane(IMAGES).flatten(2).flatten(order=1)


def test_values_that_do_not_fit_their_dimensions_are_refused():
    x = image_to_plane(IMAGES).flatten(2)
    with pytest.raises(InvalidInputError, match=r"Values of \[5\] channels do not fit the dimensions b c \(y x\).*\[4\]"):
        TokenTensor(x.space, [torch.zeros(96, 5)], x.dims)


def test_dimensions_that_are_not_there_are_refused():
    x = image_to_plane(IMAGES).flatten(2)
    for call in (
        lambda: x.flatten(3),
        lambda: x.transpose(0, 3),
        lambda: x.mean(-4),
        lambda: x.unsqueeze(5),
        lambda: x.split(1, 7),
    ):
        with pytest.raises(InvalidInputError, match="expected -"):
            call()


def test_a_cloud_without_an_extent_is_no_tokens():
    with pytest.raises(UnsupportedError, match=r"flatten.*canvas=\(height, width\)"):
        random_cloud(3).flatten(2)
