"""The cache of converted networks: one folder a network, made by one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

from i2p_zoo.errors import CacheError, CheckpointError, I2PError


def cache_folder() -> Path:
    """Returns the folder of converted networks: $I2P_ZOO_CACHE, or i2p-zoo beside the Hub client's cache."""
    chosen = os.environ.get("I2P_ZOO_CACHE")
    return Path(chosen) if chosen else Path(constants.HF_HOME) / "i2p-zoo"


def load_cached(name: str, load: Callable[[Path], Any], convert: Callable[[Path], None], fresh: bool) -> Any:
    """Loads a network from the cache, where it is converted into if it is missing or damaged.

    Args:
        name: of its folder.
        load: reads a folder.
        convert: converts the network and saves it in a folder.
        fresh: convert it in any case.

    Raises:
        CacheError: the cache cannot be written.
        I2PError: as the functions.
    """
    folder = cache_folder() / "converted" / name
    with _cache_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.is_dir() and not fresh:
                with contextlib.suppress(CheckpointError):  # our own cache: a damaged entry is converted again
                    return load(folder)
            convert(folder)
            return load(folder)


@contextlib.contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except I2PError:
        raise
    except OSError as error:
        raise CacheError(
            f"{cache}: the converted network cannot be kept there ({error}). Make room, or set I2P_ZOO_CACHE to another folder."
        ) from error
