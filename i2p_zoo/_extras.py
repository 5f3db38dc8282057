"""Imports of optional dependencies, with an error that says which extra brings them."""

from __future__ import annotations

import importlib
from typing import Any

from i2p_zoo.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Imports and returns an optional module.

    Args:
        module: its import name.
        extra: the extra of i2p-zoo that installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = MissingExtraError(f"This needs `{module}` ({error}). Install it with: {install_command(extra)}")
        missing.extra = extra
        raise missing from error


def install_command(extra: str) -> str:
    """Returns the command that installs an extra, as every shell takes it: cmd.exe knows no single quotes.

    Example:
        >>> install_command("demo")
        'pip install "i2p-zoo[demo]"'
    """
    return f'pip install "i2p-zoo[{extra}]"'
