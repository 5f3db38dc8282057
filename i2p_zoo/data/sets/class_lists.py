"""Which numbers of a file's labels are which classes: a list in a file, or the labels' own values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.files.paths import require_file
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.errors import InvalidInputError

NO_CLASS = "ignored ignore unlabeled unlabelled unclassified unannotated void".split()
"""Names, in either case, of what is no class of a list."""
# Table 17 of the LAS specification 1.4-R15, by the American Society for Photogrammetry and Remote Sensing.
_LAS_NAMES = (
    "never classified, unclassified, ground, low vegetation, medium vegetation, high vegetation, building, low noise, "
    "model key point, water, rail, road surface, overlap, wire guard, wire conductor, transmission tower, wire connector, "
    "bridge deck, high noise, overhead structure, ignored ground, snow, temporal exclusion"
)
LAS_NAMES = dict(enumerate(_LAS_NAMES.split(", ")))
"""What LAS calls its classification codes."""
LAS_NO_CLASS = (0, 1)
_NONE = (IGNORED, 255)  # which IGNORED becomes in a byte
_LINE = re.compile(r"(-?\d+)(?:\s*[\s,;:=]\s*(\S.*))?")


@dataclass(frozen=True)
class ClassList:
    """Which codes are which classes.

    Attributes:
        class_of_code: the name of each code's class, None for no class. Codes may share a name.
        source: where it comes from, for errors.

    Raises:
        InvalidInputError: no code has a class.

    Example:
        >>> listed = ClassList({2: "ground", 4: "plants", 5: "plants", 7: None}, "classes.txt")
        >>> listed.names, listed.codes, listed.to_labels(np.array([5, 2, 7, -1]))[0].tolist()
        (('ground', 'plants'), (2, 4), [1, 0, -1, -1])
    """

    class_of_code: Mapping[int, str | None]
    source: str

    def __post_init__(self) -> None:
        if not self.names:
            raise InvalidInputError(f"{self.source}: no class but such names as {', '.join(NO_CLASS[:3])}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in the order of the list."""
        return tuple(dict.fromkeys(name for name in self.class_of_code.values() if name is not None))

    @property
    def codes(self) -> tuple[int, ...]:
        """The first code of each class."""
        codes: dict[str | None, int] = {}
        for code, name in self.class_of_code.items():
            codes.setdefault(name, code)
        return tuple(codes[name] for name in self.names)

    def to_labels(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (N,) numbers of classes or `IGNORED`, and the codes, each once, that the list does not have.

        -1 and 255, which -1 becomes in a byte, are no class where the list does not say otherwise.
        """
        number_of_name: dict[str | None, int] = {name: number for number, name in enumerate(self.names)}
        number_of_code = {code: number_of_name.get(name, IGNORED) for code, name in self.class_of_code.items()}
        number_of_code = dict.fromkeys(_NONE, IGNORED) | number_of_code
        present, rows = np.unique(codes, return_inverse=True)
        numbers = np.array([number_of_code.get(code, IGNORED) for code in present.tolist()], np.int64)
        return numbers[rows], np.setdiff1d(present, list(number_of_code))


def read_class_list(path: Path) -> ClassList:
    """Reads lines of a code and a name, such as `2 ground`, or of names alone, whose codes count from 0.

    Code and name are divided by white space, a comma, a semicolon, a colon or `=`. Lines that begin with # are left out. Codes
    of one name are one class; one of the names `NO_CLASS` is none.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: no line, one of another kind than the first, a code twice, or no class.
    """
    require_file(path, "It must have a line such as `2 ground` for each code.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [_LINE.fullmatch(line) for line in lines]
    names: dict[int, str] = {}
    for number, (line, match) in enumerate(zip(lines, matches, strict=True)):
        if (match is None) != (matches[0] is None):
            raise InvalidInputError(f"{path}: the lines {lines[0]!r} and {line!r} differ; give each a code, or none.")
        code, name = (number, line) if match is None else (int(match[1]), match[2] or match[1])
        if code in names:
            raise InvalidInputError(f"{path}: the code {code} stands twice, as {names[code]!r} and {name!r}.")
        names[code] = name
    return ClassList({code: None if name.lower() in NO_CLASS else name for code, name in names.items()}, str(path))


def list_own_codes(codes: Iterable[int], is_las: bool, source: str) -> ClassList:
    """Makes every code a class, named as LAS names it, or by its number.

    Args:
        codes: that labels have. -1 and 255 are no class, and in LAS 0 and 1, never classified and unclassified.
        is_las: whether the codes are LAS classification codes.
        source: for errors.

    Raises:
        InvalidInputError: no class.

    Example:
        >>> list_own_codes([6, 2, 1, 40], True, "my scans").class_of_code
        {1: None, 2: 'ground', 6: 'building', 40: 'class 40'}
    """
    without = {*_NONE, *LAS_NO_CLASS} if is_las else {*_NONE}
    names = {code: LAS_NAMES.get(code, f"class {code}") if is_las else str(code) for code in sorted(set(codes))}
    return ClassList({code: None if code in without else name for code, name in names.items()}, source)
