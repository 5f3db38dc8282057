"""Names of networks: the prefix and the tag come off, and what timm does not know is refused with near names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

from i2p_zoo import InvalidInputError, NotFoundError, create_model
from i2p_zoo.names import split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50", ("resnet50", "")),
        ("i2p-resnet50", ("resnet50", "")),
        ("i2p-resnet50.a1_in1k", ("resnet50", "a1_in1k")),
        ("resnet50.fb_swsl_ig1b_ft_in1k", ("resnet50", "fb_swsl_ig1b_ft_in1k")),
        ("resnet50.", ("resnet50", "")),
        ("resnet50.v1.5", ("resnet50", "v1.5")),
        ("resnet50.no_such_tag", ("resnet50", "no_such_tag")),
    ],
)
def test_name_is_split_into_architecture_and_tag(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["resnet5O", "i2p-resnet5O", "i2p-resnet5O.a1_in1k"])
def test_unknown_name_suggests_near_ones(name):
    with pytest.raises(NotFoundError, match=r"no architecture 'resnet5O'.*Did you mean .*i2p-resnet50"):
        create_model(name)


def test_name_that_is_near_nothing_suggests_nothing():
    with pytest.raises(NotFoundError) as caught:
        create_model("qqqqqqqq")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["i2p-i2p-resnet50", "I2P-resnet50", "", "i2p-", ".a1_in1k", "i2p_resnet50", " resnet50"])
def test_only_the_prefix_itself_comes_off_and_once(name):
    architecture = name.removeprefix("i2p-").partition(".")[0]
    with pytest.raises(NotFoundError, match=re.escape(f"timm {timm.__version__} has no architecture {architecture!r}.")):
        split_name(name)


@pytest.mark.parametrize("name", ["resnet5O", "i2p-resnet5O.a1_in1k"])
def test_near_names_are_at_most_four_that_can_be_used(name):
    with pytest.raises(NotFoundError) as caught:
        split_name(name)
    near = str(caught.value).partition("Did you mean ")[2].rstrip("?").split(", ")
    assert 1 <= len(near) <= 4
    assert "i2p-resnet50" in near
    assert all(timm.is_model(split_name(suggestion)[0]) for suggestion in near)


@pytest.mark.parametrize("bad", [None, 50, b"resnet50", ["resnet50"], Path("resnet50")], ids=lambda bad: type(bad).__name__)
def test_what_is_no_string_is_named(bad):
    with pytest.raises(InvalidInputError, match=rf"must be a string such as 'i2p-resnet50'; got {type(bad).__name__}\."):
        split_name(bad)
