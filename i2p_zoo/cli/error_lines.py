"""Errors, warnings and notices of a command line, one line each."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from i2p_zoo.errors import I2PError, InvalidInputError
from i2p_zoo.wording import count_of

debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class ErrorLines(click.Group):
    """A group of commands that prints warnings, this package's errors and the file system's in one line, after its own name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which they were added, as `--help` shows them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; after an error it exits with code 2, under `debug_option` with a traceback.

        A command that is interrupted or terminated exits with 128 and the signal's number, as shells count.
        """
        _print_what_the_terminal_lacks()
        with self._warning_in_lines(ctx), self._notices_in_lines(), _terminating() as received:
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # `i2p-zoo list | head -1`: click ends quietly
                raise
            except KeyboardInterrupt as interruption:
                self._print(ctx, f"interrupted{f': {interruption}' if str(interruption) else '.'}")
                sys.exit(128 + (received[0] if received else signal.SIGINT))
            except (I2PError, OSError) as error:
                self._print(ctx, str(error))
                sys.exit(2)

    def _print(self, ctx: click.Context, message: str) -> None:
        if ctx.params.get("debug"):
            traceback.print_exc()
        click.echo(self._line(message), err=True)

    def _line(self, message: str) -> str:
        return f"{self.name}: {' '.join(line.strip() for line in message.splitlines())}"

    @contextlib.contextmanager
    def _notices_in_lines(self) -> Iterator[None]:
        """Prints what this package logs of long work as it begins, such as the first conversion of a network."""
        logger, handler = logging.getLogger("i2p_zoo"), logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"{self.name}: %(message)s"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)

    @contextlib.contextmanager
    def _warning_in_lines(self, ctx: click.Context) -> Iterator[None]:
        """Lets Python print warnings as this package's errors are, without the place and line of the code that warned."""
        default = warnings.formatwarning
        if not ctx.params.get("debug"):
            warnings.formatwarning = lambda message, *place, **details: f"{self._line(str(message))}\n"
        try:
            yield
        finally:
            warnings.formatwarning = default


@contextlib.contextmanager
def _terminating() -> Iterator[list[int]]:
    """Lets SIGTERM end a command as Ctrl-C does, with what it began put in order; gives what was received."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    is_free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free:
        yield received
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print_what_the_terminal_lacks() -> None:
    """Lets characters that the output's encoding does not have, or the bytes of a file's name, be escaped and not raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


class BatchErrors:
    """The errors of single items of a batch, such as files: the others are still done, and these are told at the end.

    Args:
        items: of the batch.
        noun: for one of them.

    Example:
        >>> errors = BatchErrors(["a.ply", "b.ply"], "file")
        >>> for file in errors.items:
        ...     with errors.held(file):
        ...         if file == "b.ply":
        ...             raise InvalidInputError("it is empty.")
        >>> errors.tell()
        Traceback (most recent call last):
        ...
        i2p_zoo.errors.InvalidInputError: 1 of 2 files failed: b.ply: it is empty.
    """

    def __init__(self, items: Sequence[str | Path], noun: str) -> None:
        self.items, self.noun = items, noun
        self.errors: list[Exception] = []

    @contextlib.contextmanager
    def held(self, item: str | Path) -> Iterator[None]:
        """Keeps an error of this item for `tell`, with the item's name in its message."""
        try:
            yield
        except BrokenPipeError:
            raise
        except (I2PError, OSError) as error:
            self.errors.append(error if str(item) in str(error) else InvalidInputError(f"{item}: {error}"))

    def tell(self) -> None:
        """Raises the error of the only item, or InvalidInputError with those of all that failed."""
        if self.errors and len(self.items) == 1:
            raise self.errors[0]
        if self.errors:
            messages = " ".join(f"{error}".rstrip(".") + "." for error in self.errors)
            raise InvalidInputError(f"{len(self.errors)} of {count_of(len(self.items), self.noun)} failed: {messages}")
