"""Names of networks: the zoo's prefix, timm's architecture and tag."""

from __future__ import annotations

from pathlib import PurePath

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


def is_only_path(name: str, system: type[PurePath] = PurePath) -> bool:
    r"""Whether a name can be a folder's path alone: neither a zoo name nor the Hub's "organisation/name".

    Args:
        name: as `i2p_zoo.from_pretrained` takes it.
        system: whose paths; by default this one's.

    Example:
        >>> from pathlib import PureWindowsPath
        >>> [is_only_path(name) for name in ("resnet50", "acme/parts", "./parts", "/runs/a", "runs/a/model")]
        [False, False, True, True, True]
        >>> [is_only_path(name, PureWindowsPath) for name in ("acme/parts", r"run\model", r"C:\run", "C:/run")]
        [False, True, True, True]
    """
    path = system(name)
    has_own_separator = len(path.parts) > 1 and "/" not in name
    return name.startswith((".", "~")) or path.is_absolute() or name.count("/") > 1 or has_own_separator
