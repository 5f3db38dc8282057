"""What a point carries into its voxel, by name: the one parser of feature names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from i2p_zoo.errors import InvalidInputError

FIELD = "field:"
"""Before the name of a further number of each point, such as `field:return_number`: one channel."""
CHANNELS = {"xyz": 3, "rgb": 3, "normals": 3, "ones": 1, "intensity": 1}
"""How many channels a named feature has."""
FEATURES = (*CHANNELS, "extra")
"""All names; "extra" are a cloud's columns beyond x, y, z, as many as it has."""


def parse_features(features: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a text such as "xyz, normals", or in a list of names.

    Raises:
        InvalidInputError: not a text or a list of them, or an unknown name.

    Example:
        >>> parse_features("xyz, normals")
        ('xyz', 'normals')
    """
    parts: Any = features.split(",") if isinstance(features, str) else features
    if not isinstance(parts, list | tuple) or not all(isinstance(name, str) for name in parts):
        raise InvalidInputError(f"`features` must be names joined by commas, such as 'xyz,rgb'; got {features!r}.")
    names = tuple(name.strip() for name in parts)
    if not names or not all(name in FEATURES or name.removeprefix(FIELD) not in ("", name) for name in names):
        raise InvalidInputError(
            f"`features` must be some of {', '.join(FEATURES)} and {FIELD}NAME, joined by commas; got {features!r}."
        )
    return names


def count_channels(names: Iterable[str], extra: int = 0) -> int:
    """Returns how many channels named features have together.

    Args:
        names: of `FEATURES`, or `field:NAME`.
        extra: how many columns "extra" stands for.
    """
    return sum(1 if name.startswith(FIELD) else CHANNELS.get(name, extra) for name in names)
