"""The table of torch functions, and what is not in it."""

from __future__ import annotations

import pytest
import torch

from i2p_zoo import I2PError, UnsupportedError, image_to_plane, sparse_op
from i2p_zoo.sparse.dispatch import _handlers
from tests.helpers import random_cloud, random_images


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


REFUSED = {
    "flatten": (lambda x: torch.flatten(x, 1), UnsupportedError, "flatten.*sparse_op"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_on_sites_is_refused_with_its_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(image_to_plane(random_images(2, 4, 6, 5)))
