"""Commands that look at a trained network: predict | collapse."""

from __future__ import annotations

import json
from pathlib import Path

import click

from i2p_zoo._extras import require
from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.checkpoint_folders import check_place, load_network


def _check_picture(picture: Path | None) -> None:
    """Raises, before anything is measured, where a picture cannot be drawn or has no folder."""
    shared.check_parent("--picture", picture)
    if picture is not None:
        require("matplotlib.figure", "finetune")


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@shared.default_option("--top", type=shared.COUNT, default=3, help="Classes to name of each file.")
@click.option("--picture", type=shared.FILE, help="Draw the clouds with their classes, as PNG.")
@click.option("--as-is", is_flag=True, help="Do not centre and scale each cloud into the unit sphere.")
@shared.columns_option
@shared.json_option
def predict(
    model: str, files: tuple[Path, ...], top: int, picture: Path | None, as_is: bool, columns: str | None, as_json: bool
) -> None:
    """Classify FILES (ply off obj stl pcd las laz e57 bin npy npz txt xyz pts csv asc) by MODEL, a folder or a name.

    Example: i2p-zoo predict run/model chair.off table.ply --picture classes.png
    """
    from tqdm import tqdm

    from i2p_zoo.data.files.cloud_files import read_cloud
    from i2p_zoo.experiments.classification import classify, normalize
    from i2p_zoo.pictures import draw_clouds

    _check_picture(picture)
    network = load_network(model)
    classes_of_file, clouds = {}, []
    for file in tqdm(files, desc="classifying", disable=len(files) == 1):
        cloud = read_cloud(file, columns=columns)
        cloud = cloud if as_is else normalize(cloud)
        clouds.append(cloud["points"])
        classes_of_file[str(file)] = classify(network, cloud, top)
    if picture is not None:
        names = [next(iter(classes)) for classes in classes_of_file.values()]
        draw_clouds(picture, clouds, names, names)
    if as_json:
        click.echo(json.dumps(classes_of_file))
        return
    for name, classes in classes_of_file.items():
        click.echo(f"{name}: " + ", ".join(f"{label} {100 * share:.1f} %" for label, share in classes.items()))
    if picture is not None:
        click.echo(f"drawn in {picture}")


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", required=True, metavar="SPEC", help="Labelled clouds: see `i2p-zoo finetune --help`.")
@shared.default_option("--split", type=click.Choice(["train", "test"]), default="train")
@click.option("--picture", type=shared.FILE, help="Draw the figures, as PNG.")
@shared.json_option
def collapse(models: tuple[str, ...], data: str, split: str, picture: Path | None, as_json: bool) -> None:
    """Measure neural collapse (NC1 to NC4 of Papyan et al. 2020) of MODELS, folders or names, on labelled clouds.

    Example: i2p-zoo collapse run/model --data kicad-mini --picture collapse.png
    """
    from i2p_zoo.analysis import draw_collapse, measure_collapse
    from i2p_zoo.data.specs import load_data

    _check_picture(picture)
    for name in models:
        check_place(name)
    clouds = dict(zip(("train", "test"), load_data(data), strict=True))[split]
    metrics = {name: measure_collapse(load_network(name), clouds) for name in models}
    if picture is not None:
        draw_collapse(picture, metrics)
    if as_json:
        click.echo(json.dumps({name: measured.to_dict() for name, measured in metrics.items()}))
        return
    for name, measured in metrics.items():
        click.echo(name)
        for key, value in measured.to_dict().items():
            click.echo(f"  {key:<24} {'-' if value is None else format(value, '.4g')}")
