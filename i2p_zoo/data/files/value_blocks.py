"""Numbers of a file, read in blocks that are looked at while the processor's cache holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError

_BYTES = 2**19  # of a block: few enough for a second-level cache, and enough that calls cost nothing


def read_blocks(file: IO[bytes], values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Fills a contiguous array with the rest of a file, and yields each part of it, flat, once it is read.

    Raises:
        InvalidInputError: less or more in the file than the array holds.
    """
    flat = values.reshape(-1)
    step = _BYTES // flat.itemsize
    for start in range(0, flat.size, step):
        block = flat[start : start + step]
        if file.readinto(block) < block.nbytes:  # type: ignore[attr-defined]
            raise InvalidInputError(f"it ends before its {flat.size:,} numbers do.")
        yield block
    check_end(file, flat.size)


def check_end(file: IO[bytes], count: int) -> None:
    """Raises InvalidInputError where a file goes on after the numbers that were read of it."""
    if file.read(1):
        raise InvalidInputError(f"it goes on after its {count:,} numbers.")


def bound_of(blocks: Iterable[NDArray[Any]]) -> float:
    """Returns what no number of flat blocks exceeds in size, in a single pass: infinity or NaN where one may be so.

    Example:
        >>> bound_of([np.array([3.0, 0.0]), np.array([-4.0])]), bound_of([np.array([np.nan])])
        (5.0, nan)
    """
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks:
            numbers = block if block.dtype.kind == "f" else block.astype(np.float64)
            total += float(np.dot(numbers, numbers))
    return float(np.sqrt(total))
