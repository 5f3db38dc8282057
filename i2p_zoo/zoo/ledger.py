"""The ledger of the zoo: which timm architectures were certified, with the figures measured."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def load_ledger() -> dict[str, Any]:
    """Returns the ledger that `python -m conversion certify` wrote: timm's version and a record a model."""
    text = resources.files("i2p_zoo.zoo").joinpath("ledger.json").read_text(encoding="utf-8")
    ledger: dict[str, Any] = json.loads(text)
    return ledger


def certified_models() -> list[str]:
    """Returns the timm architectures whose certificate holds, sorted."""
    return sorted(name for name, record in load_ledger()["models"].items() if record.get("passed"))
