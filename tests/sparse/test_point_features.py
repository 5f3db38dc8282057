"""Names of features: one parser, whoever asks."""

from __future__ import annotations

import pytest

from i2p_zoo import InvalidInputError
from i2p_zoo.sparse.point_features import count_channels, parse_features


@pytest.mark.parametrize(
    ("features", "names", "channels"),
    [
        ("xyz", ("xyz",), 3),
        ("xyz, normals", ("xyz", "normals"), 6),
        (" ones ,rgb", ("ones", "rgb"), 4),
        ("intensity,field:return_number, field:user data", ("intensity", "field:return_number", "field:user data"), 3),
        (["xyz", "extra"], ("xyz", "extra"), 5),
    ],
)
def test_names_are_read_and_their_channels_counted(features, names, channels):
    assert parse_features(features) == names
    assert count_channels(names, extra=2) == channels


@pytest.mark.parametrize(
    "features", ["", "xyz,", "colour", "XYZ", "field:", "field: ,xyz", "field", [], None, 3, [1], ["xyz", None]]
)
def test_anything_else_is_refused_and_quoted(features):
    with pytest.raises(InvalidInputError) as caught:
        parse_features(features)
    assert repr(features) in str(caught.value)
