"""Names of networks: the zoo's prefix, timm's architecture and tag."""

from __future__ import annotations

import difflib

import timm

from i2p_zoo.errors import InvalidInputError, NotFoundError

PREFIX = "i2p-"


def split_name(name: str) -> tuple[str, str]:
    """Splits a zoo or timm name into timm's architecture and tag.

    Raises:
        NotFoundError: timm has no such architecture; near names are listed.
        InvalidInputError: no string.

    Example:
        >>> split_name("i2p-resnet50.a1_in1k")
        ('resnet50', 'a1_in1k')
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"A name must be a string such as 'i2p-resnet50'; got {type(name).__name__}.")
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4)
        hint = f" Did you mean {', '.join(PREFIX + n for n in near)}?" if near else ""
        raise NotFoundError(f"timm {timm.__version__} has no architecture {architecture!r}.{hint}")
    return architecture, tag
