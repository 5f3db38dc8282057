"""The table of torch functions, and what is not in it."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import I2PError, UnsupportedError, image_to_plane, sparse_op
from i2p_zoo.sparse.dispatch import _handlers
from tests.helpers import random_cloud, random_images
from tests.oracles import check_as_image


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


def test_a_function_of_tokens_alone_needs_an_extent():
    check_as_image(lambda x: torch.flatten(x, 1), random_images(2, 4, 6, 5))
    with pytest.raises(UnsupportedError, match=r"flatten.*SparseTensor\(2, 4, .*canvas=\(height, width\)"):
        torch.flatten(random_cloud(4), 1)


def test_where_neither_sites_nor_tokens_express_a_call_both_say_why():
    with pytest.raises(UnsupportedError, match=r"`cat` along dimension 0 of SparseTensor.* As tokens: `cat`"):
        torch.cat([image_to_plane(random_images(2, 4, 6, 5))] * 2)


def test_tokens_are_seen_among_the_arguments_by_name():
    for call in (
        lambda x: torch.add(x, other=x.amax(2, keepdim=True)),
        lambda x: torch.sub(input=x.amax(3, keepdim=True), other=x),
    ):
        check_as_image(call, random_images(2, 4, 6, 5))
