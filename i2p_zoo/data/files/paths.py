"""Paths that must exist, their order, and errors that name them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import TypeVar

from i2p_zoo.errors import InvalidInputError, MissingExtraError, NotFoundError

_AnyPath = TypeVar("_AnyPath", bound=PurePath)


def sort_paths(paths: Iterable[_AnyPath]) -> list[_AnyPath]:
    """Returns paths in the order of the characters of their parts, so that a data set is the same one on every system.

    Example:
        >>> from pathlib import PureWindowsPath  # which by itself takes B for b
        >>> [path.name for path in sort_paths([PureWindowsPath("a.off"), PureWindowsPath("B.off")])]
        ['B.off', 'a.off']
    """
    return sorted(paths, key=lambda path: path.parts)


def name_as_text(name: str) -> str:
    """Returns a file's name as text, also where its bytes are none to this system: they are UTF-8 then, or else Latin-1.

    Example:
        >>> name_as_text("chair")
        'chair'
    """
    content = os.fsencode(name)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def require_folder(folder: str | os.PathLike[str], advice: str) -> Path:
    """Returns the path of a folder that exists; else raises a NotFoundError with the advice."""
    path = Path(folder)
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder. {advice}")
    return path


def require_file(path: Path, advice: str) -> None:
    """Raises a NotFoundError with the advice unless a file exists."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. {advice}")


@contextlib.contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turns whatever a library raises over the content of a file into an InvalidInputError that names the file.

    What is no fault of the file passes: a missing extra, too little memory, and what asks the process to stop.
    """
    try:
        yield
    except (MissingExtraError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # from struct.error to the panic of a decoder in Rust, which is no Exception
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, InvalidInputError) else str(error)
        raise InvalidInputError(f"{path} cannot be read: {reason}") from error
