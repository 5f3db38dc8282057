"""The ledger of the zoo: which timm architectures were certified, with the figures measured."""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from i2p_zoo.names import PREFIX


@functools.cache
def load_ledger() -> dict[str, Any]:
    """Returns the ledger that `python -m conversion certify` wrote: timm's version and a record a model."""
    text = resources.files("i2p_zoo.zoo").joinpath("ledger.json").read_text(encoding="utf-8")
    ledger: dict[str, Any] = json.loads(text)
    return ledger


def certified_models() -> list[str]:
    """Returns the timm architectures whose certificate holds, sorted."""
    return sorted(name for name, record in load_ledger()["models"].items() if record.get("passed"))


def certificate_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ledger's record of a model with the keys of a checkpoint's certificate; one without figures as it is.

    Every record was measured with live random weights; older ones do not say which tensors were compared and seen.
    """
    if "float32" not in record:
        return dict(record)
    errors = {dtype: record[dtype] for dtype in ("float32", "float64")}
    return {**record, "errors": errors, "weights": "random"}


def list_models(pattern: str = "*") -> list[str]:
    """Lists the names of the zoo: networks whose certificate was measured and holds.

    Args:
        pattern: a shell wildcard, with or without the prefix "i2p-".

    Returns:
        Sorted names `i2p-<timm architecture>`; a timm tag may be added to each, as in "i2p-resnet50.a1_in1k".

    Example:
        >>> list_models("resnet1?")
        ['i2p-resnet18']
    """
    if not pattern.startswith(PREFIX):
        pattern = PREFIX + pattern
    return sorted(fnmatch.filter((PREFIX + name for name in certified_models()), pattern))
