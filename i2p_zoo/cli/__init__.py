"""The command line: its group, its errors in one line, its commands in the order of `--help`."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from i2p_zoo import __version__
from i2p_zoo.cli import catalog as zoo
from i2p_zoo.cli import inspection as using
from i2p_zoo.cli import segment as segmentation
from i2p_zoo.cli import training
from i2p_zoo.errors import I2PError


class _OneLineErrors(click.Group):
    """Prints this package's errors and those of the file system without a traceback, and exits with code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `i2p-zoo list | head -1`: click ends quietly
            raise
        except (I2PError, OSError) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"i2p-zoo: {' '.join(str(error).split())}", err=True)
            sys.exit(2)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="i2p-zoo")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Turn image-pretrained timm CNNs into sparse 3D point-cloud networks.

    Example: i2p-zoo convert tf_efficientnet_lite0 --out lite0
    """


for _command in (
    zoo.list_command,
    zoo.info,
    zoo.convert,
    zoo.certify,
    zoo.push,
    training.finetune,
    using.predict,
    training.fewshot,
    training.speedup,
    training.ablate,
    using.collapse,
    segmentation.segment,
    zoo.demo,
):
    main.add_command(_command)
