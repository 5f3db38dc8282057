"""Commands about classes of points: segment train | eval | predict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from i2p_zoo.choices import LOSSES
from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli import training_recipes as recipes
from i2p_zoo.cli.checkpoint_folders import load_network
from i2p_zoo.cli.error_lines import BatchErrors
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.wording import join_words

_DEFAULTS = {"optimizer": "adamw", "skip_downsamples": 1}
"""Defaults of `segment train` that are not those of `finetune`: the best measured on held-out scenes (docs/results.md)."""


@click.group()
def segment() -> None:
    """Train, measure and use networks that give each point of a scene a class.

    Example: i2p-zoo segment train --model i2p-tf_efficientnet_lite0 --data scenes:boards.npz --voxel-size 1 --out run
    """


@segment.command("train", context_settings={"default_map": _DEFAULTS})
@recipes.recipe_option("segment train")
@shared.network_options(
    data="Labelled scenes: SPEC as above.",
    voxel_size="Edge of a voxel, in the scenes' unit.",
    learning_rate="by default 0.01 with adamw and 0.2 with sgd.",
)
@shared.block_options
@shared.mode_option(without=("head", "none"))
@click.option("--crop", type=shared.POSITIVE, help="Edge of the training crops, in the scenes' unit; by default whole scenes.")
@shared.default_option("--max-points", type=shared.COUNT, default=80_000, help="Of a training crop.")
@shared.default_option("--loss", type=click.Choice(LOSSES), default="both")
@click.option("--dropout", type=shared.SHARE, help="Before the classifier; by default 0, and 0.3 with --preset.")
@shared.run_options
def train_command(
    block: float | None,
    overlap: float,
    crop: float | None,
    max_points: int,
    loss: str,
    dropout: float | None,
    out: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a U-Net on labelled scenes; writes the network, metrics.json, curves.png, confusion.png and scene.png.

    \b
    SPEC is one of
      s3dis:FOLDER            Area_* folders, or the usual .npy files; Area 5 is the test split
      semantickitti:FOLDER    dataset/sequences; sequence 08 is the test split
      scannet:FOLDER          scans and the lists of splits
      scenes:FILE             an .npz of scenes, as boards.npz: points (S, N, 3) in steps of unit,
                              label (S, N), classes, and split (S,), 0 train and 1 test
      parts:FILE              an .npz of objects in parts, as kicad-parts.npz: points (S, N, 3),
                              scale (S,), the largest norm of each, part (S, N), parts,
                              coarse_of_part, coarse_parts, and split (S,)
      scans:FOLDER            train and test (or val), folders of your own .las, .laz, .ply, .npz
                              and so on, and classes.txt, lines of a label and a class: 2 ground

    An .npz of scenes may also have normals and colors, (S, N, 3), which --features normals and rgb read, and -1 for points of
    no class.

    The labels of scans are LAS's classification, or a field such as label, class, segment or CloudCompare's scalar_Label;
    scans:FOLDER,label=NAME names another, classes=FILE and test=val other places, and columns=x,y,z,label the columns of texts
    without a header. Labels of one class may be several lines; one that is called ignored is no class, nor are -1 and 255.
    Without classes.txt the labels are the classes.
    --features also reads intensity (LAS's divided by 65535) and field:NAME, any other number of a point.

    Example: i2p-zoo segment train --model i2p-resnet18 --data s3dis:S3DIS --crop 8 --block 8 --voxel-size 0.05 --out run
    """  # noqa: D301
    from i2p_zoo.data.specs import load_scenes
    from i2p_zoo.experiments.scene_runs import LEARNING_RATES, Blocks, run_segmentation
    from i2p_zoo.segmentation.crops import Cropping

    recipe = recipes.choose_recipe_(values)
    if values["learning_rate"] is None:
        values["learning_rate"] = LEARNING_RATES[values["optimizer"]]
    shared.check_run(values)
    train_set, test_set = load_scenes(values["data"], values["features"])
    setup, options = shared.read_options(values, len(train_set))
    blocks = Blocks(Cropping(crop, max_points), block, overlap)
    chosen = shared.read_run_options(values, "training", recipe)
    cuts: dict[str, Any] = {"blocks": blocks, "loss": loss, "dropout": dropout}
    with shared.resumable(out):
        metrics = run_segmentation(setup, train_set, test_set, options, out, chosen, **cuts)
    if int(os.environ.get("RANK", "0")):  # of several processes the first one prints
        return
    _print_scores(metrics["test"], as_json, {key: value for key, value in metrics.items() if key != "history"})
    if not as_json:
        recipes.print_reported(recipe)
        click.echo(f"trained {metrics['trained']:,d} of {metrics['total']:,d} parameters in {metrics['seconds']:.0f} s")
        shared.print_written(out, metrics["saved"], "metrics.json", "curves.png", "confusion.png", "scene.png")


def _print_scores(scores: dict[str, Any], as_json: bool, json_values: Any) -> None:
    if as_json:
        shared.print_json(json_values)
        return
    click.echo(f"test mIoU {100 * scores['miou']:.1f} %, accuracy of points {100 * scores['accuracy']:.1f} %")
    width = max(map(len, scores["per_class"]))
    for name, value in scores["per_class"].items():
        click.echo(f"  {name:<{width}}  {'-' if value is None else f'{100 * value:5.1f} %'}")


@segment.command("eval")
@click.argument("model")
@click.option("--data", required=True, metavar="SPEC", help="Labelled scenes: see `i2p-zoo segment train --help`.")
@shared.block_options
@shared.device_option
@shared.json_option
def eval_command(model: str, data: str, block: float | None, overlap: float, device: str, as_json: bool) -> None:
    """Measure MODEL, a folder or a name, on the test scenes.

    Example: i2p-zoo segment eval run/model --data scenes:boards.npz
    """
    from i2p_zoo.data.specs import load_scenes
    from i2p_zoo.segmentation.task import score

    network = _require_unet(load_network(model, device), model)
    _, test_set = load_scenes(data, network.settings.features)
    scores = score(network, test_set, block, overlap, progress="scene").to_dict()
    _print_scores(scores, as_json, {key: value for key, value in scores.items() if key != "confusion"})


@segment.command("predict")
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=shared.INPUT)
@click.option("--out", type=shared.FOLDER, default=".", help="Folder of the results.")
@shared.block_options
@shared.columns_option
@shared.device_option
def predict_command(
    model: str, files: tuple[Path, ...], out: Path, block: float | None, overlap: float, columns: str | None, device: str
) -> None:
    """Give each point of FILES, or vertex of a mesh, a class by MODEL.

    A .las or .laz is written again as NAME-classes.las or .laz with the classification that its training data had (or the
    numbers of the classes, from 0), all else as it was; any other file as NAME-classes.ply, coloured, with its coordinates.
    NAME-classes.npy has the number of the class of each point that has coordinates.

    Example: i2p-zoo segment predict run/model scan.las --block 8 --out classes
    """
    import numpy as np

    from i2p_zoo.experiments.classification import name_classes

    network = _require_unet(load_network(model, device), model)
    names, errors = name_classes(network), BatchErrors(files, "file")
    stems = [file.stem for file in files]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InvalidInputError(
            f"The results of several files would be {', '.join(repeated)}-classes.npy; run them one by one."
        )
    out.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for file in files:
        with errors.held(file):
            labels = _segment_file(network, file, out, block, overlap, columns)
            written += [_name_result(file), f"{file.stem}-classes.npy"]
            shares = np.bincount(labels, minlength=len(names)) / len(labels)
            text = ", ".join(f"{names[k]} {100 * shares[k]:.1f} %" for k in np.argsort(-shares) if shares[k] > 0)
            click.echo(f"{file}: {len(labels):,d} points; {text}")
    if written:
        click.echo(f"in {out}: {join_words(written)}")
    errors.tell()


def _name_result(file: Path) -> str:
    return f"{file.stem}-classes{file.suffix if file.suffix.lower() in ('.las', '.laz') else '.ply'}"


def _segment_file(network: Any, file: Path, out: Path, block: float | None, overlap: float, columns: str | None) -> Any:
    """Writes the classes of a file's points; returns them, (N,)."""
    import numpy as np

    from i2p_zoo.data.files import las_classes
    from i2p_zoo.data.files.cloud_files import read_cloud
    from i2p_zoo.data.files.ply import write_colored_ply
    from i2p_zoo.data.scenes import select_features
    from i2p_zoo.experiments.scene_runs import color_classes
    from i2p_zoo.modules import class_codes
    from i2p_zoo.segmentation.voting import segment as segment_scene
    from i2p_zoo.sparse.point_features import parse_features
    from i2p_zoo.staging import replacing

    cloud = read_cloud(file, scene=True, columns=columns)
    scene = select_features(str(file), cloud, parse_features(network.settings.features))
    codes, is_las = np.array(class_codes(network)), file.suffix.lower() in las_classes.SUFFIXES
    if is_las:
        las_classes.check_las_codes(file, codes)
    labels = segment_scene(network, scene, block, overlap, progress=file.name).argmax(1)
    if is_las:
        las_classes.write_las_classes(out / _name_result(file), file, codes[labels])
    else:
        write_colored_ply(out / _name_result(file), scene["points"][:, :3], color_classes(labels))
    with replacing(out / f"{file.stem}-classes.npy") as temporary, temporary.open("wb") as stream:
        np.save(stream, labels.astype(np.int32))
    return labels


def _require_unet(network: Any, name: str) -> Any:
    from i2p_zoo.networks.unet import UNet

    if not isinstance(network, UNet):
        raise InvalidInputError(f"{name} classifies whole clouds; `i2p-zoo segment train` makes networks that class points.")
    return network
