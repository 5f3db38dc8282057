"""The command line: its commands in the order of `--help`."""

from __future__ import annotations

import click

from i2p_zoo import __version__
from i2p_zoo.cli import catalog, deployment, display, inspection, segment, training
from i2p_zoo.cli.error_lines import ErrorLines, debug_option
from i2p_zoo.cli.memory import keep_freed_memory


@click.group("i2p-zoo", cls=ErrorLines, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="i2p-zoo")
@debug_option
def main(debug: bool) -> None:
    """Turn image-pretrained timm networks into sparse 3D networks for point clouds.

    Example: i2p-zoo convert tf_efficientnet_lite0 --out lite0
    """
    keep_freed_memory()


for _command in (
    catalog.list_command,
    catalog.info,
    catalog.convert,
    catalog.certify,
    catalog.push,
    training.finetune,
    inspection.predict,
    display.view,
    display.app,
    deployment.export,
    training.compare,
    training.fewshot,
    training.speedup,
    training.ablate,
    inspection.collapse,
    inspection.similarity,
    segment.segment,
    catalog.demo,
):
    main.add_command(_command)
