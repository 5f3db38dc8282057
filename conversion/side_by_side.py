"""Calls side by side, a process each, so that one that is killed takes no other with it.

It imports nothing heavy: what a process imports is what the function that it calls needs.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


def call_side_by_side(
    function: Callable[[Item, int], Result], items: Sequence[Item], processes: int
) -> Iterator[tuple[Item, Result | None]]:
    """Calls a function with each item in a process of its own, so many at once; a call whose process died is made again, alone.

    Processes end with the iterator, finished or closed, and with Ctrl-C.

    Args:
        function: called with an item and the number of processes that share the machine; importable and without an error.
        items: what to call it with; values that can be pickled.
        processes: how many at once.

    Yields:
        Each item with what the function returned, as they come; with None where its process died twice.
    """
    died = yield from _call_once(function, items, processes)
    for item in died:  # where memory ran out, it may have been another's fault
        for twice in (yield from _call_once(function, [item], 1)):
            yield twice, None


def _call_once(
    function: Callable[[Item, int], Result], items: Sequence[Item], processes: int
) -> Generator[tuple[Item, Result], None, list[Item]]:
    """Calls the function once with each item; returns those whose process died."""
    context = multiprocessing.get_context("spawn")
    waiting, died = list(items), list[Item]()
    running: dict[Connection, tuple[Item, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                item = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_send_result, args=(sender, function, item, processes), daemon=True)
                process.start()
                sender.close()  # the process's own is then the only one, and its end is the connection's
                running[receiver] = item, process
            for receiver in cast(list[Connection], wait(list(running))):
                item, process = running[receiver]
                results = list[Result]()
                with receiver:
                    try:
                        results.append(receiver.recv())
                    except (EOFError, OSError):  # before it had one to send, or while it sent it
                        died.append(item)
                del running[receiver]
                process.join()
                yield from ((item, result) for result in results)
        return died
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _send_result(sender: Connection, function: Callable[[Item, int], Result], item: Item, processes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process and not only its call
    with sender:
        sender.send(function(item, processes))
