"""Recording a forward, so that it can be exported: which taps its weights use, then its operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor


class UsedTaps:
    """Which taps of each kernel map some weight uses."""

    def __init__(self) -> None:
        self._taps: dict[int, set[int]] = {}
        self._maps: list[Any] = []  # kept, so that their identities stay their own

    def note(self, kmap: Any, weight: Tensor | None) -> None:
        """Notes the taps of a weight (C_out, all taps, C_in / groups) that are not all zero; all of the window without one."""
        self._maps.append(kmap)
        used = range(math.prod(kmap.kernel)) if weight is None else (weight != 0).any(2).any(0).nonzero().flatten().tolist()
        self._taps.setdefault(id(kmap), set()).update(used)

    def find(self, kmap: Any) -> list[int] | None:
        """Returns the taps of a map, rising; None for one that was not used."""
        taps = self._taps.get(id(kmap))
        return None if taps is None else sorted(taps)


Depthwise = Callable[[Tensor, Tensor, Tensor], Tensor]

_used_taps: ContextVar[UsedTaps | None] = ContextVar("used_taps", default=None)
_depthwise: ContextVar[Depthwise | None] = ContextVar("depthwise", default=None)  # set where a forward is recorded


@contextmanager
def collect_used_taps() -> Iterator[UsedTaps]:
    """Gives what forwards in the `with` block use of their kernel maps."""
    used = UsedTaps()
    token = _used_taps.set(used)
    try:
        yield used
    finally:
        _used_taps.reset(token)


def note_used_taps(kmap: Any, weight: Tensor | None = None) -> None:
    """Notes, inside `collect_used_taps`, the taps of a map that a weight (C_out, all taps, C_in / groups) uses, or all."""
    if (used := _used_taps.get()) is not None:
        used.note(kmap, None if weight is None else weight.detach())


def is_recorded() -> bool:
    """Whether torch records the operations of a forward: none may read a value back, and none may be a kernel of ours."""
    return _depthwise.get() is not None


def recorded_depthwise() -> Depthwise:
    """Returns what convolves (N_in, C) features by a table (N_out, K) and a weight (K, C) in a forward that is recorded."""
    return cast(Depthwise, _depthwise.get())


@contextmanager
def record_operations(depthwise: Depthwise) -> Iterator[None]:
    """Has forwards in a `with` block run by operations that can be exported, depthwise convolutions by a function."""
    token = _depthwise.set(depthwise)
    try:
        with torch.no_grad():
            yield
    finally:
        _depthwise.reset(token)
