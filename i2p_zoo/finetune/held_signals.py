"""Signals that end a process, held back until what it does is whole and can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_ENDING = (signal.SIGINT, signal.SIGTERM)


def ignore_interrupts(worker: int) -> None:
    """Lets a process that loads batches be ended by the one that it works for: Ctrl-C in a terminal reaches all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class HeldSignals:
    """While it is entered, the first SIGINT or SIGTERM waits for `deliver`; a second one comes at once.

    Nothing is held in another thread than the main one, where Python handles no signals, nor what is ignored.

    Args:
        held: False to hold nothing.

    Attributes:
        number: of the signal that waits, or None.
    """

    def __init__(self, held: bool = True) -> None:
        self.number: int | None = None
        self._is_held = held and threading.current_thread() is threading.main_thread()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> HeldSignals:
        if self._is_held:
            for number in _ENDING:
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._handlers[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def deliver(self) -> None:
        """Lets the signal that waits, if there is one, do what it would have done, from now on without delay."""
        if self.number is not None:
            number, self.number = self.number, None
            self._restore()
            signal.raise_signal(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self.deliver()
        self.number = number

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
