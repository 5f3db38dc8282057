"""Colours as bytes, from the types and ranges in which files have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError

_OVERSHOOT = 1e-3  # beyond 1, of fractions that were blended


def to_bytes(colors: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns uint8 of the same shape, of floats within 0 to 1, numbers within 0 to 255, or uint16 that fill their range.

    Raises:
        InvalidInputError: numbers beyond these ranges, or another type.

    Example:
        >>> to_bytes(np.array([[0.0, 0.2, 1.0]])).tolist(), to_bytes(np.array([[0, 257, 65535]], np.uint16)).tolist()
        ([[0, 51, 255]], [[0, 1, 255]])
    """
    low, high = colors.min(initial=0), colors.max(initial=0)
    is_wide = colors.dtype == np.uint16 and high > 255  # some writers fill 16 bits with 8-bit values
    is_fraction = colors.dtype.kind == "f" and high <= 1 + _OVERSHOOT
    fits = low >= 0 and (high <= 255 or is_wide)
    is_unclear = colors.dtype.kind == "f" and 1 + _OVERSHOOT < high < 2 and bool((colors != np.round(colors)).any())
    if colors.dtype.kind not in "iuf" or not fits or is_unclear:
        raise InvalidInputError(
            f"its colours are {colors.dtype} from {low} to {high}; expected 0 to 255, fractions of 0 to 1, or uint16."
        )
    if is_wide:
        colors = colors / 257
    elif is_fraction:
        colors = np.minimum(colors * 255, 255)
    return np.round(colors).astype(np.uint8)
