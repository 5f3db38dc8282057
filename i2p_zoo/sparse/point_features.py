"""What a point carries into its voxel, by name: the one parser of feature names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from i2p_zoo.errors import InvalidInputError

CHANNELS = {"xyz": 3, "rgb": 3, "normals": 3, "ones": 1, "intensity": 1}
"""How many channels a named feature has."""
FIELD = "field:"
"""Begins the name of any other column of a file, of one channel, such as "field:return_number"."""
FEATURES = (*CHANNELS, "extra", f"{FIELD}NAME")
"""All names; "extra" are a cloud's columns beyond x, y, z, as many as it has."""


def parse_features(features: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names in a text such as "xyz, normals", or in a list of names.

    Raises:
        InvalidInputError: not a text or a list of them, or an unknown name.

    Example:
        >>> parse_features("xyz, normals"), parse_features(["rgb", "field:return_number"])
        (('xyz', 'normals'), ('rgb', 'field:return_number'))
    """
    parts: Any = features.split(",") if isinstance(features, str) else features
    if not isinstance(parts, list | tuple) or not all(isinstance(name, str) for name in parts):
        raise InvalidInputError(f"`features` must be names joined by commas, such as 'xyz,rgb'; got {features!r}.")
    names = tuple(name.strip() for name in parts)
    if not names or not all(name in CHANNELS or name == "extra" or is_field(name) for name in names):
        raise InvalidInputError(f"`features` must be some of {', '.join(FEATURES)}, joined by commas; got {features!r}.")
    return names


def is_field(name: str) -> bool:
    """Whether a name is of a column, "field:" and one word or more."""
    return name.startswith(FIELD) and bool(name.removeprefix(FIELD).strip())


def count_channels(names: Iterable[str], extra: int = 0) -> int:
    """Returns how many channels named features have together.

    Args:
        names: of `FEATURES`, or `field:NAME`.
        extra: how many columns "extra" stands for.
    """
    return sum(extra if name == "extra" else CHANNELS.get(name, 1) for name in names)


def stored_features(features: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names among features that a cloud's mapping must hold as arrays: all but coordinates and ones."""
    return tuple(name for name in parse_features(features) if name not in ("xyz", "ones", "extra"))
