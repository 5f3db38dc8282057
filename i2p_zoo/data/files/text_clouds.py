"""Clouds as text, a point a line: .txt, .xyz, .pts, .csv, .asc and Open3D's, with a header, a count or neither."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.named_columns import NORMAL, RGB, XYZ, Columns, divide_rows, parse_columns, standard_name
from i2p_zoo.errors import InvalidInputError

_OPEN3D: dict[str, tuple[str, ...]] = {
    ".xyzn": (*XYZ, *NORMAL),
    ".xyzrgb": (*XYZ, *RGB),
}  # which defines the columns of these endings
TEXT_SUFFIXES = (".txt", ".xyz", ".pts", ".csv", ".asc", *_OPEN3D)
_HEAD = 2**16  # bytes that must hold the header and the first point
_LOOKED_AT = 50  # lines by which columns of whole numbers are told
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_COLORS_FIRST = {".asc": True, ".pts": False}  # CloudCompare and Leica Cyclone have each a fixed order


class _Form(NamedTuple):
    """How a text is written: lines before the first point, delimiter, decimal mark, names, and how many points it announces.

    `strange` is a header whose names tell no x, y and z.
    """

    encoding: str
    skipped: int
    delimiter: str | None
    is_comma_decimal: bool
    names: tuple[str, ...] | None
    strange: str | None
    announced: int | None
    whole: list[bool]


def read_text(file: IO[bytes], columns: Columns | None) -> Arrays:
    """Reads points whose numbers are divided by spaces, tabs, commas or semicolons, with decimal points or commas.

    Columns have the names of `columns`, else of a header or the ending, or those that their values tell.

    Raises:
        InvalidInputError: no text of numbers, fewer than three columns, rows of different lengths, another number of points
            than its first line says, a header without x, y and z, or columns that cannot be told.
    """
    path = Path(os.fsdecode(file.name)).absolute()
    form = _read_form(file)
    if columns is None and form.strange:
        raise InvalidInputError(
            f"its header {form.strange[:80]!r} does not say which columns are x, y and z; name them all, as "
            "columns=x,y,z,intensity."
        )
    rows = _read_rows(path, form)
    if form.announced is not None and form.announced != len(rows):
        raise InvalidInputError(f"{len(rows)} of the {form.announced} points that its first line announces.")
    if rows.shape[1] < 3:
        raise InvalidInputError(f"expected x, y, z and maybe more on each line; found {rows.shape[1]} columns.")
    suffix = path.suffix.lower()
    return divide_rows(rows, columns or form.names or _OPEN3D.get(suffix), form.whole, _COLORS_FIRST.get(suffix))


def is_text_cloud(path: Path) -> bool:
    """Whether a text has a line of three numbers or more near its beginning, as notes do not."""
    with path.open("rb") as file:
        try:
            _read_form(file)
        except InvalidInputError:
            return False
    return True


def _read_form(file: IO[bytes]) -> _Form:
    head = file.read(_HEAD)
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidInputError("it is no text: it has bytes of zero.")
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig" if head[:1] == b"\xef" else "latin-1"
    lines = head.decode(encoding, "replace").splitlines()
    lines = lines[: len(lines) - (len(head) == _HEAD)]  # the last one is cut
    titles: list[str] = []
    announced = None
    for number, line in enumerate(lines):
        text = line.strip()
        delimiter, is_comma_decimal = _punctuation(text)
        words = _split(text, delimiter)
        numeric = [word for word in words if _NUMBER.fullmatch(word)]
        if len(numeric) == len(words) >= 2 or (len(numeric) >= 3 and len(words) - len(numeric) < len(numeric)):
            whole = _whole_columns(lines[number : number + _LOOKED_AT], delimiter, len(words))
            names = _names(titles, len(words))
            strange = titles[-1] if titles and not names and _is_header(titles[-1], delimiter, len(words)) else None
            return _Form(encoding, number, delimiter, is_comma_decimal, names, strange, announced, whole)
        if len(words) == 1 and text.isdecimal() and announced is None:
            announced = int(text)
        elif text:
            titles.append(text.lstrip("/#;% "))
    raise InvalidInputError("it has no line of three numbers, as a cloud in a text has for each point.")


def _punctuation(line: str) -> tuple[str | None, bool]:
    """Returns what divides a line's numbers, None for spaces and tabs, and whether their decimal mark is a comma."""
    if ";" in line:
        return ";", "," in line
    if "," not in line:
        return None, False
    words = line.split()
    is_comma_decimal = len(words) >= 3 and all(re.fullmatch(r"[+-]?\d*(,\d+)?([eE][+-]?\d+)?", word) for word in words)
    return (None, True) if is_comma_decimal else (",", False)


def _split(line: str, delimiter: str | None) -> list[str]:
    return [word.strip(" \t\"'") for word in line.split(delimiter)]


def _whole_columns(lines: Sequence[str], delimiter: str | None, width: int) -> list[bool]:
    rows = [_split(line, delimiter) for line in lines if line.strip()]
    rows = [row for row in rows if len(row) == width]
    return [all(re.fullmatch(r"[+-]?\d+", row[place]) for row in rows) for place in range(width)]


def _names(titles: Sequence[str], width: int) -> tuple[str, ...] | None:
    """Returns the columns' names of the last line before the numbers that has x, y and z among them."""
    for title in reversed(titles):
        options = [[standard_name(word) for word in words] for words in _splits(title)]
        for names in options:
            if len(names) == width and set(XYZ) <= set(names):
                repeated = [name for name in names if names.count(name) > 1]
                if repeated:
                    raise InvalidInputError(f"its header has the column {repeated[0]!r} more than once: {title[:80]!r}.")
                columns = parse_columns(",".join(name or str(place + 1) for place, name in enumerate(names)))
                return columns if isinstance(columns, tuple) else None
        if any(set(XYZ) <= set(names) for names in options):
            raise InvalidInputError(f"its header {title[:80]!r} has another number of columns than its first point, {width}.")
    return None


def _splits(title: str) -> list[list[str]]:
    return [_split(title, delimiter) for delimiter in (_punctuation(title)[0], None, ",", ";", "\t")]


def _is_header(title: str, delimiter: str | None, width: int) -> bool:
    """Whether a line has a word for each column, which three words between blanks, as in a comment, need not be."""
    return len(_split(title, delimiter)) == width and (width > 3 or delimiter is not None or "\t" in title)


def _read_rows(path: Path, form: _Form) -> NDArray[Any]:
    options: dict[str, Any] = {"dtype": np.float64, "delimiter": form.delimiter, "ndmin": 2, "quotechar": '"'}
    try:
        if not form.is_comma_decimal:
            # given a path and not a file numpy reads by blocks
            return np.loadtxt(str(path), skiprows=form.skipped, encoding=form.encoding, **options)
        with path.open(encoding=form.encoding) as lines:
            decimal = (line.replace(",", ".") for line in itertools.islice(lines, form.skipped, None))
            return np.loadtxt(decimal, **options)
    except ValueError as error:
        raise InvalidInputError(f"{str(error).partition('; use')[0]} (counted from its first point).") from error
