"""Errors of a command line, one line each."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from i2p_zoo.errors import I2PError, InvalidInputError

debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class ErrorLines(click.Group):
    """A group of commands that prints this package's errors and those of the file system in one line, after its own name."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; after an error it exits with code 2, under `debug_option` with a traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `i2p-zoo list | head -1`: click ends quietly
            raise
        except (I2PError, OSError) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"{self.name}: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


class BatchErrors:
    """The errors of single items of a batch, such as files: the others are still done, and these are told at the end.

    Args:
        items: of the batch.
        noun: for one of them.
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
            raise InvalidInputError(f"{len(self.errors)} of {len(self.items)} {self.noun}s failed: {messages}")
