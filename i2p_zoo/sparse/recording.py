"""Recording a forward, so that it can be exported: which taps its weights use, then its operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor


class UsedTaps:
    """Which taps of each kernel map some weight uses."""

    def __init__(self) -> None:
        self._taps: dict[int, set[int]] = {}
        self._maps: list[Any] = []  # kept, so that their identities stay their own

    def note(self, kmap: Any, weight: Tensor) -> None:
        """Notes the taps of a weight (C_out, all taps, C_in / groups) that are not all zero."""
        self._maps.append(kmap)
        self._taps.setdefault(id(kmap), set()).update((weight != 0).any(2).any(0).nonzero().flatten().tolist())

    def find(self, kmap: Any) -> list[int] | None:
        """Returns the taps of a map, rising; None for one that was not used."""
        taps = self._taps.get(id(kmap))
        return None if taps is None else sorted(taps)


_used_taps: ContextVar[UsedTaps | None] = ContextVar("used_taps", default=None)
_is_recorded: ContextVar[bool | None] = ContextVar("recorded", default=None)  # whether depthwise convolutions are kept


@contextmanager
def collect_used_taps() -> Iterator[UsedTaps]:
    """Gives what forwards in the `with` block use of their kernel maps."""
    used = UsedTaps()
    token = _used_taps.set(used)
    try:
        yield used
    finally:
        _used_taps.reset(token)


def note_used_taps(kmap: Any, weight: Tensor) -> None:
    """Notes, inside `collect_used_taps`, the taps of a map that a weight (C_out, all taps, C_in / groups) uses."""
    if (used := _used_taps.get()) is not None:
        used.note(kmap, weight.detach())


def is_recorded() -> bool:
    """Whether torch records the operations of a forward: none may read a value back, and none may be a kernel of ours."""
    return _is_recorded.get() is not None


def keeps_depthwise() -> bool:
    """Whether the recorded graph holds depthwise convolutions as one operation, `torch.ops.i2p_zoo.depthwise`."""
    return _is_recorded.get() is True


@contextmanager
def record_operations(keep_depthwise: bool = False) -> Iterator[None]:
    """Has forwards in a `with` block run by operations that can be exported.

    Args:
        keep_depthwise: whether depthwise convolutions become one operation, for a graph that computes them in its own way.
    """
    token = _is_recorded.set(keep_depthwise)
    try:
        with torch.no_grad():
            yield
    finally:
        _is_recorded.reset(token)
