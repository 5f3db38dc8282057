"""What colours of any type mean: the one rule of their range."""

from __future__ import annotations

from i2p_zoo.errors import InvalidInputError

_OVERSHOOT = 1e-3  # relative, of colours that were blended
_DARK = 16  # of 255: no more is no picture


def full_brightness(dtype: str, low: float, high: float, is_whole: bool) -> float:
    """Returns the number that stands for full brightness among colours: 1, 255 or 65,535.

    Args:
        dtype: numpy's name of their type.
        low, high: the least and the greatest of them.
        is_whole: whether all are whole numbers.

    Raises:
        InvalidInputError: they fit no range, or two; the message says which, and what to give.

    Example:
        >>> full_brightness("float32", 0.0, 0.9, False), full_brightness("int64", 0, 254, True)
        (1.0, 255.0)
    """
    is_float = dtype.startswith(("float", "bfloat"))
    if not low >= 0:
        readings = "No colour is below 0: a wider type was cast, or they are standardised already"
    elif dtype == "uint8" or high == 0:
        return 255.0
    elif is_float and high <= 1 + _OVERSHOOT:
        return 1.0
    elif is_float and high < _DARK and not is_whole:
        readings = f"They may be fractions brighter than 1, or dark colours of 0 to 255, none above {_DARK}"
    elif dtype == "uint16":
        if high > 255:
            return 65535.0
        readings = "They may be colours of 0 to 255 in 16 bits, or dark ones of 0 to 65535"
    elif dtype == "int8":
        readings = "They may be halves of 0 to 255, or 127 may stand for full brightness"
    elif high <= 1:
        readings = "They may be fractions, each 0 or full, or all but black colours of 0 to 255"
    elif high <= 255 * (1 + _OVERSHOOT if is_float else 1):
        return 255.0
    else:
        readings = "They may be colours of 0 to 65535, or of 0 to 255 with faulty ones among them"
    raise InvalidInputError(
        f"colours are {dtype} from {low} to {high}; expected 0 to 255, fractions of 0 to 1, or uint16 that reach beyond 255. "
        f"{readings}. Give uint8, or floats of 0 to 1."
    )
