"""Lines of numbers in the text formats of meshes, read all at once and checked line by line."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from i2p_zoo.errors import InvalidInputError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def clean_text(content: bytes, comments: bool = True) -> bytes:
    """Returns a text whose lines all end in a line feed, without a byte order mark and comments from `#` to a line's end."""
    text = content.removeprefix(_BYTE_ORDER_MARK)
    for other in (b"\r\n", b"\r", b"\f"):
        if other in text:
            text = text.replace(other, b"\n")
    return re.sub(rb"#.*", _comment, text) if comments else text


def _comment(match: re.Match[bytes]) -> bytes:
    """Keeps 1.#INF, as older runtimes of Microsoft print it, which is not a number with a comment."""
    return match[0] if match.string[max(match.start() - 1, 0) : match.start()].strip() else b""


class NumberLines:
    r"""The lines of a text that are not blank, each of numbers between blanks.

    Args:
        text: as `clean_text` returns it.

    Attributes:
        counts: (L,) how many words each line has.

    Example:
        >>> lines = NumberLines(b"3 0 1 2\n\n2 7 8")
        >>> lines.counts.tolist(), lines.read(1, 2, np.int64).tolist()
        ([4, 3], [2, 7, 8])
    """

    def __init__(self, text: bytes) -> None:
        letters = np.frombuffer(text, np.uint8)
        is_word = letters > 32
        is_first = is_word.copy()
        is_first[1:] &= ~is_word[:-1]
        words = np.flatnonzero(is_first)
        counts = np.diff(np.searchsorted(words, np.flatnonzero(letters == 10)), prepend=0, append=len(words))
        self.counts: NDArray[np.int64] = counts[counts > 0]
        self._starts = np.append(words[np.cumsum(self.counts) - self.counts], len(text))
        self._text = text

    def __len__(self) -> int:
        return len(self.counts)

    def line(self, number: int) -> str:
        """Returns the start of a line, to be shown in a message."""
        return self._slice(number, number + 1).decode("latin-1").rstrip()[:80]

    def read(self, start: int, stop: int, dtype: DTypeLike) -> NDArray[Any]:
        """Returns the numbers of the lines from `start` to before `stop`, one line after the other.

        Raises:
            InvalidInputError: a word that is no number of this type.
        """
        text = self._slice(start, stop)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # by which numpy says that it stopped at a word
            try:
                values = np.fromstring(text, dtype, sep=" ")
            except (ValueError, DeprecationWarning):
                values = np.zeros(0, dtype)
        if len(values) != self.counts[start:stop].sum():  # more where two numbers touch, as in `1-2`
            raise InvalidInputError(f"expected numbers; {_first_word(text, np.dtype(dtype))}.")
        return values

    def read_rows(self, start: int, stop: int, dtype: DTypeLike) -> NDArray[Any]:
        """Returns the numbers of the lines from `start` to before `stop`, (stop - start, numbers in a line).

        Raises:
            InvalidInputError: lines of other lengths than the first, or a word that is no number of this type.
        """
        counts = self.counts[start:stop]
        if other := np.flatnonzero(counts != counts[:1]).tolist():
            raise InvalidInputError(
                f"row {other[0]} has {counts[other[0]]} numbers, {self.line(start + other[0])!r}; the first has {counts[0]}."
            )
        return self.read(start, stop, dtype).reshape(len(counts), int(counts.max(initial=0)))

    def read_integers(self, start: int, stop: int) -> NDArray[np.int64] | NDArray[np.float64]:
        """Returns the numbers as int64 where every one of them is written so, else as float64, which takes twice as long."""
        try:
            return self.read(start, stop, np.int64)
        except InvalidInputError:
            return self.read(start, stop, np.float64)

    def _slice(self, start: int, stop: int) -> bytes:
        return self._text[self._starts[start] : self._starts[min(stop, len(self))]]


def _first_word(text: bytes, dtype: np.dtype[Any]) -> str:
    """Says which word is no number, by Python's rules, which allow underscores as well."""
    for line in text.decode("latin-1").splitlines():
        for word in line.split():
            try:
                is_number = "_" not in word and np.isfinite([float(word) if dtype.kind == "f" else int(word)]).size
            except ValueError:
                is_number = False
            if not is_number:
                return f"found {word!r} in the line {line[:80]!r}"
    return "found words that are none"


def gather_lists(values: NDArray[Any], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[Any]:
    """Returns the lists of values that begin at `starts` and have `sizes` entries, one after the other.

    Example:
        >>> gather_lists(np.arange(10), np.array([1, 6]), np.array([2, 3])).tolist()
        [1, 2, 6, 7, 8]
    """
    shifts = starts - (np.cumsum(sizes) - sizes)
    gathered: NDArray[Any] = values[np.repeat(shifts, sizes) + np.arange(sizes.sum())]
    return gathered
