"""Commands that show: view | app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from i2p_zoo._extras import require
from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.checkpoint_folders import check_place, load_network
from i2p_zoo.errors import InvalidInputError


@click.command()
@click.argument("file", type=shared.INPUT)
@click.option("--model", help="A checkpoint's folder or a name: its classes, and the voxels at its strides.")
@click.option("--out", type=shared.FILE, help="The page to write; by default FILE's name with .html, in the current folder.")
@shared.default_option("--top", type=shared.COUNT, default=5, help="Classes of an object to show.")
@click.option("--as-is", is_flag=True, help="Do not centre and scale an object into the unit sphere for the network.")
@click.option(
    "--voxel-size",
    type=shared.POSITIVE,
    help="Without a network, in the file's unit; by default a fortieth of the longest side.",
)
@shared.block_options
@shared.columns_option
@shared.device_option
def view(
    file: Path,
    model: str | None,
    out: Path | None,
    top: int,
    as_is: bool,
    voxel_size: float | None,
    block: float | None,
    overlap: float,
    columns: str | None,
    device: str,
) -> None:
    """Draw FILE, a mesh or cloud, in 3D as one HTML page that needs no network: points, voxels, classes.

    The page has the points, the voxels at each stride and, with --model, the likeliest classes as bars; of a network that
    classes points, as `i2p-zoo segment` trains them, each point in the colour of its class.

    Example: i2p-zoo view chair.off --model run/model
    """
    from i2p_zoo.viewing import view_file, write_page

    page = out or Path(f"{file.stem}.html")
    shared.check_output("--out", page, is_folder=False)
    require("plotly.io", extra="view")  # before the network is loaded and the cloud read
    network = None if model is None else _load(model, device)
    options: dict[str, Any] = {"top": top, "as_is": as_is, "voxel_size": voxel_size, "extent": block, "overlap": overlap}
    shown = view_file(file, network, columns=columns, **options)
    write_page(page, shown)
    click.echo(f"{file}: {shown.summary()}")
    click.echo(f"drawn in {page}")


def _load(model: str, device: str) -> Any:
    """Loads a network; raises InvalidInputError for one without classes, or an exported one, and as `load_network`."""
    from i2p_zoo.experiments.classification import check_classifier
    from i2p_zoo.networks.unet import UNet

    if model.lower().endswith(".onnx"):
        raise InvalidInputError(f"{model} is an exported network, without its strides; give the checkpoint's folder.")
    network = load_network(model, device)
    if not isinstance(network, UNet):
        check_classifier(network)
    return network


@click.command()
@click.argument("model", required=False)
@shared.default_option(
    "--image-network",
    metavar="NAME",
    default="i2p-tf_efficientnet_lite0",
    help="Of the zoo, with ImageNet's classes, for images.",
)
@click.option("--examples", type=shared.INPUT, help="A folder of clouds and meshes to try; by default a few simple shapes.")
@click.option(
    "--block", type=shared.POSITIVE, help="Edge of the blocks in which scenes are segmented; by default whole scenes."
)
@shared.default_option("--host", default="127.0.0.1", help="Address to serve at; 0.0.0.0 for other machines too.")
@click.option("--port", type=click.IntRange(1, 65535), help="By default the first that is free from 7860 on.")
@click.option("--space", type=shared.FOLDER, help="Do not serve: write a folder for a Space of the Hugging Face Hub.")
@shared.device_option
def app(
    model: str | None,
    image_network: str,
    examples: Path | None,
    block: float | None,
    host: str,
    port: int | None,
    space: Path | None,
    device: str,
) -> None:
    """Serve a page where clouds, meshes and images are dropped and shown with the classes of MODEL, a folder or a name.

    A cloud is shown in 3D with its voxels at each stride, a scene in the colours of its classes. Of an image the page shows
    what the 2D network and the inflated one take it for, side by side.

    Example: i2p-zoo app run/model
    """
    from i2p_zoo.names import split_name

    split_name(image_network)
    options: dict[str, Any] = {"image_network": image_network, "examples": examples, "extent": block}
    if space is not None:
        from i2p_zoo.viewing.spaces import write_space

        if model is not None:
            check_place(model)
        click.echo(f"a Space in {write_space(space, model, **options)}; `hf upload` puts it on the Hub")
        return
    require("gradio", extra="app")
    require("plotly.graph_objects", extra="view")
    from i2p_zoo.viewing.app import build_app, launch_app

    page = build_app(None if model is None else _load(model, device), **options)
    _, address, _ = launch_app(page, server_name=host, server_port=port, quiet=True, prevent_thread_lock=True)
    click.echo(f"serving at {address} until Ctrl-C")
    page.block_thread()
