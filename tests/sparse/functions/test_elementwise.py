"""Functions of each value alone, against the same calls on the image that lies on the plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo import I2PError, image_to_plane
from i2p_zoo.sparse.dispatch import _handlers
from tests.helpers import check_on_plane, random_cloud, random_images

IMAGES = random_images(2, 4, 6, 5)

ELEMENTWISE = {  # name: further arguments
    **dict.fromkeys(
        "relu relu_ relu6 silu sigmoid sigmoid_ logsigmoid hardswish hardsigmoid tanh tanh_ gelu mish selu".split(), ()
    ),
    **dict.fromkeys("softplus softsign tanhshrink exp sin cos log sqrt rsqrt square abs neg __neg__ reciprocal".split(), ()),
    **dict.fromkeys("clone nan_to_num".split(), ()),
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


def test_dropout_drops_values_and_keeps_the_mean():
    x = image_to_plane(torch.ones(2, 5, 50, 50))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = F.dropout(x, 0.2, True).features
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert abs(dropped.mean() - 1) < 0.02


REFUSED_TOO = {
    "a power of two tensors": lambda x: x**x,
    "a number to a power": lambda x: torch.pow(2, x),
}


@pytest.mark.parametrize("call", REFUSED_TOO.values(), ids=REFUSED_TOO.keys())
def test_odd_calls_are_refused_as_unsupported_too(call):
    with pytest.raises(I2PError):
        call(image_to_plane(IMAGES))
