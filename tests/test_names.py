"""Names of networks: the prefix and the tag come off, and what timm does not know is refused with near names."""

from __future__ import annotations

import pytest

from i2p_zoo import NotFoundError, create_model
from i2p_zoo.names import split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50", ("resnet50", "")),
        ("i2p-resnet50", ("resnet50", "")),
        ("i2p-resnet50.a1_in1k", ("resnet50", "a1_in1k")),
        ("resnet50.fb_swsl_ig1b_ft_in1k", ("resnet50", "fb_swsl_ig1b_ft_in1k")),
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
