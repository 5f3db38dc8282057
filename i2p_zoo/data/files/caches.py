"""Arrays that took long to make, kept in a file for as long as what they were made of is the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from i2p_zoo.data.files.arrays import Arrays, read_arrays
from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.staging import replacing


def read_cache(path: Path, fingerprint: str, names: Iterable[str]) -> Arrays | None:
    """Returns the arrays of an earlier run, or None where there are none of the same fingerprint, or damaged ones."""
    try:
        arrays = read_arrays(path, "")
    except (NotFoundError, InvalidInputError):
        return None
    is_same = str(arrays.get("fingerprint")) == fingerprint and set(names) <= arrays.keys()
    return arrays if is_same else None


def write_cache(path: Path, fingerprint: str, consequence: str, **arrays: Any) -> None:
    """Keeps arrays under a fingerprint; where the folder cannot be written it warns of the consequence."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, fingerprint=fingerprint, **arrays)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): {consequence}", stacklevel=4)
