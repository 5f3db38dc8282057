"""Words of messages: counts with their nouns, lists of names, values of JSON as text, and near names of what is misspelt."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def count_of(number: int, noun: str) -> str:
    """Returns a number with its noun, in the singular for one.

    Args:
        number: how many.
        noun: in the singular; its plural ends in s, or in es after an s.

    Example:
        >>> count_of(1, "part"), count_of(2000, "part"), count_of(0, "class")
        ('1 part', '2,000 parts', '0 classes')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,d} {noun if number == 1 else plural}"


def join_words(words: Iterable[Any], most: int = 10) -> str:
    """Returns words as a text, with how many more there are beyond the first.

    Example:
        >>> join_words(["xyz", "rgb", "normals"]), join_words("abcdef", most=2)
        ('xyz, rgb and normals', 'a, b and 4 more')
    """
    listed = [str(word) for word in words]
    if len(listed) > most:
        listed = [*listed[:most], f"{len(listed) - most:,d} more"]
    return " and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]]))


def format_arguments(arguments: Mapping[str, Any]) -> str:
    """Returns arguments as a call has them.

    Example:
        >>> format_arguments({"num_classes": 3, "global_pool": "max"})
        "num_classes=3, global_pool='max'"
    """
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def describe_value(value: Any) -> str:
    """Returns a value of JSON in words: no braces, quotes or names of Python.

    Example:
        >>> describe_value({"passed": True, "errors": {"float32": 1.5e-07, "float64": None}, "images": [1, 3, 8, 8]})
        'passed yes, errors (float32 1.5e-07, float64 none), images 1 x 3 x 8 x 8'
    """
    if isinstance(value, Mapping):
        parts = (f"({describe_value(part)})" if isinstance(part, Mapping) else describe_value(part) for part in value.values())
        return ", ".join(f"{key} {part}" for key, part in zip(value, parts, strict=True)) or "none"
    if isinstance(value, list | tuple):
        numbers = value and all(type(part) is int for part in value)
        return (" x " if numbers else ", ").join(map(describe_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def format_json(values: Any, indent: int | None = None) -> str:
    """Returns values as JSON, with null in place of numbers that JSON does not have: NaN and infinity.

    Example:
        >>> format_json({"loss": float("nan"), "shares": [0.5, float("inf")]})
        '{"loss": null, "shares": [0.5, null]}'
    """
    return json.dumps(_without_nan(values), indent=indent, allow_nan=False)


def _without_nan(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def suggest(near: Iterable[Any]) -> str:
    """Returns a question that names what may have been meant, with a space before it, or an empty text for nothing.

    Example:
        >>> suggest(near_words("resnte18", ["resnet18", "vgg11"])), suggest([])
        (' Did you mean resnet18?', '')
    """
    names = ", ".join(map(str, near))
    return f" Did you mean {names}?" if names else ""


def near_words(word: str, known: Iterable[str]) -> list[str]:
    """Returns the known words that are most like a word, the nearest first."""
    return difflib.get_close_matches(word, list(known), n=4)


def near_paths(path: str | os.PathLike[str], *, folders: bool = False) -> list[Path]:
    """Returns paths that exist and are like one that does not; with `folders` only those of folders.

    The first part of the path that does not exist is compared with what stands beside it.
    """
    try:
        missing = expanded = Path(path).expanduser()
        if expanded.exists():
            return [expanded] if expanded != Path(path) else []
        while missing.parent != missing and not missing.parent.exists():
            missing = missing.parent
        rest = expanded.relative_to(missing)
        beside = {entry.name: entry / rest for entry in missing.parent.iterdir()}
        known = [name for name, place in beside.items() if (place.is_dir() if folders else place.exists())]
        return [beside[name] for name in near_words(missing.name, sorted(known))]
    except (OSError, ValueError, RuntimeError):  # a name that is too long or no path, or a home that nobody has
        return []
