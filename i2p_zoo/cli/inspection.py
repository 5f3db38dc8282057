"""Commands that look at a trained network: predict | collapse | similarity."""

from __future__ import annotations

from pathlib import Path

import click

from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.checkpoint_folders import check_place, load_network
from i2p_zoo.cli.deployment import load_classifier
from i2p_zoo.cli.error_lines import BatchErrors


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=shared.INPUT)
@shared.default_option("--top", type=shared.COUNT, default=3, help="Classes to name of each file.")
@shared.votes_option
@click.option("--picture", type=shared.FILE, help="Draw the clouds with their classes, as PNG.")
@click.option("--as-is", is_flag=True, help="Do not centre and scale each cloud into the unit sphere.")
@shared.columns_option
@shared.device_option
@shared.json_option
def predict(
    model: str,
    files: tuple[Path, ...],
    top: int,
    votes: int,
    picture: Path | None,
    as_is: bool,
    columns: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Classify FILES of meshes or clouds by MODEL, a folder, a name or an exported .onnx file.

    FILES are ply off obj stl glb gltf pcd las laz e57 bin npy npz txt xyz xyzn xyzrgb pts csv asc.

    Example: i2p-zoo predict run/model chair.off table.ply --picture classes.png
    """
    from tqdm import tqdm

    from i2p_zoo.data.files.cloud_files import read_cloud
    from i2p_zoo.experiments.classification import normalize, vote
    from i2p_zoo.pictures import check_picture, draw_clouds

    if picture is not None:
        check_picture(picture)
    classifier = load_classifier(model, device)
    if not as_is and classifier.normalization != "unit_sphere":
        click.echo(
            f"{model} notes no normalisation, as one that was trained on no clouds, whose classes may be those of images: "
            "files are centred and scaled to the unit sphere, without --as-is.",
            err=True,
        )
    classes_of_file, clouds, errors = {}, [], BatchErrors(files, "file")
    for file in tqdm(files, desc="classifying", disable=len(files) == 1):
        with errors.held(file):
            cloud = read_cloud(file, columns=columns)
            cloud = cloud if as_is else normalize(cloud)
            classes_of_file[str(file)] = classes = vote(classifier.classify, cloud, classifier.voxel_size, votes, top)
            if picture is not None:
                clouds.append(cloud["points"])
            if not as_json:
                shares = ", ".join(f"{label} {100 * share:.1f} %" for label, share in classes.items())
                tqdm.write(f"{file}: {shares}")
    if picture is not None and clouds:
        names = [next(iter(classes)) for classes in classes_of_file.values()]
        draw_clouds(picture, clouds, names, names)
    if as_json:
        shared.print_json(classes_of_file)
    elif picture is not None and clouds:
        click.echo(f"drawn in {picture}")
    errors.tell()


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", required=True, metavar="SPEC", help="Labelled clouds: see `i2p-zoo finetune --help`.")
@shared.default_option("--split", type=click.Choice(["train", "test"]), default="train")
@click.option("--picture", type=shared.FILE, help="Draw the figures, as PNG.")
@shared.device_option
@shared.json_option
def collapse(models: tuple[str, ...], data: str, split: str, picture: Path | None, device: str, as_json: bool) -> None:
    """Measure neural collapse of MODELS, folders or names, on labelled clouds: NC1 to NC4 of Papyan and others, 2020.

    Example: i2p-zoo collapse run/model --data kicad-mini --picture collapse.png
    """
    from i2p_zoo.analysis import draw_collapse, measure_collapse
    from i2p_zoo.data.specs import load_data
    from i2p_zoo.pictures import check_picture

    if picture is not None:
        check_picture(picture)
    for name in models:
        check_place(name)
    clouds = dict(zip(("train", "test"), load_data(data), strict=True))[split]
    metrics = {name: measure_collapse(load_network(name, device), clouds) for name in models}
    if picture is not None:
        draw_collapse(picture, metrics)
    if as_json:
        shared.print_json({name: measured.to_dict() for name, measured in metrics.items()})
        return
    for name, measured in metrics.items():
        click.echo(name)
        for key, value in measured.to_dict().items():
            click.echo(f"  {key:<24} {'-' if value is None else format(value, '.4g')}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="SPEC", help="Clouds: see `i2p-zoo finetune --help`.")
@shared.default_option("--split", type=click.Choice(["train", "test"]), default="test")
@click.option("--picture", type=shared.FILE, help="Draw likeness and movement by stage, as PNG.")
@shared.json_option
def similarity(run: Path, data: str, split: str, picture: Path | None, as_json: bool) -> None:
    """Tell how like the 2D network's the features of RUN's network are, before and after, and which weights moved.

    RUN is a folder that `i2p-zoo finetune` wrote. Likeness is linear CKA (Kornblith and others, 2019), 1 for the same.

    Example: i2p-zoo similarity run --data kicad-mini --picture similarity.png
    """
    from i2p_zoo.analysis import draw_similarity
    from i2p_zoo.data.specs import load_data
    from i2p_zoo.experiments.run_similarity import compare_run
    from i2p_zoo.pictures import check_picture

    if picture is not None:
        check_picture(picture)
    clouds = dict(zip(("train", "test"), load_data(data), strict=True))[split]
    measured = compare_run(run, clouds)
    if picture is not None:
        draw_similarity(picture, measured)
    if as_json:
        shared.print_json(measured.to_dict())
        return
    click.echo(f"{'stage':<12} 2D-before  2D-after  before-after  moved")
    for stage in dict.fromkeys(["stem", *measured.before_after, *measured.moved]):
        alike = [measured.to_dict()[key].get(stage) for key in ("image_before", "image_after", "before_after")]
        cells = ["-" if value is None else f"{value:.2f}" for value in (*alike, measured.moved.get(stage))]
        click.echo(f"{stage:<12} {cells[0]:>9} {cells[1]:>9} {cells[2]:>13} {cells[3]:>6}")
