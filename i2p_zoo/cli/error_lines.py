"""Errors of a command line, one line each."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from i2p_zoo.errors import I2PError

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
