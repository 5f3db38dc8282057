"""Names of networks: the zoo's prefix, timm's architecture and tag."""

from __future__ import annotations

from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.wording import near_paths, near_words, suggest

PREFIX = "i2p-"


def split_name(name: str) -> tuple[str, str]:
    """Splits a zoo or timm name into timm's architecture and tag.

    Raises:
        NotFoundError: timm has no such architecture; near names are listed, and near folders.
        InvalidInputError: no string.

    Example:
        >>> split_name("i2p-resnet50.a1_in1k")
        ('resnet50', 'a1_in1k')
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"A name must be a string such as 'i2p-resnet50'; got {type(name).__name__}.")
    import timm  # which takes seconds; the prefix is needed without it

    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture):
        near = [PREFIX + known for known in near_words(architecture, timm.list_models())]
        hint = suggest([*near_paths(name, folders=True), *near])
        raise NotFoundError(f"timm {timm.__version__} has no architecture {architecture!r}.{hint}")
    return architecture, tag
