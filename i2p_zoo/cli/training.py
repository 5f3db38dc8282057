"""Commands that train: finetune | compare | fewshot | speedup | ablate."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli import training_recipes as recipes
from i2p_zoo.cli.checkpoint_folders import check_place, load_network
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.wording import count_of, format_json

_SOLVED = "pyramid and views, ridge"
"""The method of `finetune` with --shots, --unlabelled or --steps 0, where nothing else is chosen: the best without a step."""
_SOLVED_UNDRAWN = "pyramid, ridge"
"""The same where there can be no views: of other features than xyz, which are not drawn, and of a folder's network that was
finetuned, whose kernels are no inflations any more."""


@click.command()
@recipes.recipe_option("finetune")
@shared.network_options()
@shared.start_options
@shared.mode_option()
@click.option(
    "--shots",
    type=shared.COUNT,
    help="Train on only this many clouds of each class; by default then without steps, with readout "
    "pyramid+views, classifier ridge and stem image; of other features than xyz without views.",
)
@click.option(
    "--unlabelled",
    metavar="FOLDER",
    help="More clouds, without labels, which the classifier ridge takes too; what is not chosen is as with "
    "--shots, without a step. Behind it ,columns=... as behind folder:FOLDER.",
)
@click.option(
    "--teacher", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Label the clouds by this network."
)
@shared.default_option("--temperature", type=float, default=1.0, help="Of a teacher's soft labels.")
@click.option("--threshold", type=float, help="Hard labels where the teacher is at least this sure; others are left out.")
@shared.run_options
def finetune(
    shots: int | None,
    unlabelled: str | None,
    teacher: Path | None,
    threshold: float | None,
    out: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Finetune an image network on labelled clouds; writes the network, metrics.json, curves.png and confusion.png.

    \b
    SPEC is one of
      kicad-mini                      599 electronic parts, of a checkout or the Hub
      modelnet40:FOLDER               PointNet's HDF5 files or Princeton's meshes
      scanobjectnn:FOLDER             h5_files, the hardest variant
      scanobjectnn-objects:FOLDER     h5_files, the objects alone
      scanobjectnn-background:FOLDER  h5_files, the objects and what is around them
      shapenet55:FOLDER               Point-BERT's files
      npz:FILE                        points, label, split, classes and, optionally, normals and colors
      folder:FOLDER                   a folder a class, of meshes or clouds; behind it ,test=val measures on that
                                      split and ,columns=x,y,z,nx,ny,nz names columns of .bin, .npy and texts

    With --steps 0, --shots or --unlabelled nothing is trained, unless options say otherwise: a classifier is solved for that
    reads all feature maps and those of six depth images. It needs objects that stand alike.

    With several GPUs or machines: accelerate launch -m i2p_zoo finetune ...

    Example: i2p-zoo finetune --model i2p-tf_efficientnet_lite0 --data kicad-mini --mode io+bn --steps 60 --out run
    """  # noqa: D301
    from i2p_zoo.data import choose_shots
    from i2p_zoo.data.specs import load_data
    from i2p_zoo.experiments import run
    from i2p_zoo.experiments.methods import METHODS
    from i2p_zoo.experiments.setup import is_finetuned
    from i2p_zoo.finetune import label_by_teacher

    recipe = recipes.choose_recipe_(values)
    if threshold is not None and teacher is None:
        raise InvalidInputError(f"--threshold {threshold} is about the labels of a teacher: give --teacher FOLDER as well.")
    if unlabelled is not None and teacher is not None:
        raise InvalidInputError(
            "--teacher labels the clouds to train on, and labels spread to --unlabelled ones: leave one out."
        )
    check_place(values["model"])
    is_drawn = values["features"] == "xyz" and not is_finetuned(values["model"])
    method: Any = METHODS[_SOLVED if is_drawn else _SOLVED_UNDRAWN]
    solved = {**method.setup, **method.options}
    chosen = [name for name in solved if name != "steps" or values["steps"] != 0]
    is_solved = shots is not None or unlabelled is not None or values["steps"] == 0
    if not is_solved or shared.are_given("epochs", "scratch", "learning_rate", *chosen):
        solved = {}
    values |= {**solved, "unlabelled": unlabelled is not None}
    shared.check_run(values)
    train_set, test_set = load_data(values["data"])
    if shots is not None:
        train_set = choose_shots(train_set, shots, values["seed"])
    others = None if unlabelled is None else _load_unlabelled(unlabelled, train_set, test_set)
    if teacher is not None:
        network = load_network(str(teacher), values["device"])
        train_set = label_by_teacher(network, train_set, temperature=values["temperature"], threshold=threshold)
    setup, options = shared.read_options(values, len(train_set))
    with shared.resumable(out):
        metrics = run(setup, train_set, test_set, options, out, shared.read_run_options(values, "finetuning", recipe), others)
    if int(os.environ.get("RANK", "0")):  # of several processes the first one prints
        return
    if as_json:
        shared.print_json({key: value for key, value in metrics.items() if key != "history"})
        return
    if solved:
        click.echo(f"solved for, not trained: {' '.join(f'--{name} {value}' for name, value in solved.items())}")
    test = metrics["test"]
    trained, tested = (count_of(metrics["clouds"][split], "cloud") for split in ("train", "test"))
    click.echo(f"test accuracy {100 * test['top1']:.1f} %, mean over classes {100 * test['mean_class']:.1f} %, of {tested}")
    recipes.print_reported(recipe)
    parameters = f"{metrics['trained']:,d} of {metrics['total']:,d} parameters"
    with_others = f" and {count_of(metrics['unlabelled']['clouds'], 'unlabelled cloud')}" if others else ""
    verb = "trained" if metrics["history"] else "solved for"
    click.echo(f"{verb} {parameters} on {trained}{with_others} in {metrics['seconds']:.0f} s")
    if options.target is not None:
        reached = metrics["reached"]
        when = f"reached at step {reached['step']}, {reached['seconds']:.0f} s" if reached else "never reached"
        click.echo(f"target {100 * options.target:.1f} % {when}")
    shared.print_written(out, metrics["saved"], "metrics.json", "curves.png", "confusion.png")


def _load_unlabelled(place: str, train_set: Any, test_set: Any) -> Any:
    """Loads the clouds of a folder, without those that are labelled, and tells how many were, and how many are test clouds."""
    from i2p_zoo.data.specs import load_unlabelled_data

    clouds = load_unlabelled_data(place, train_set.classes)
    labelled, tested = ({points.tobytes() for points in part.points} for part in (train_set, test_set))
    present = [points.tobytes() for points in clouds.points]
    again = sum(points in labelled for points in present)
    of_test = sum(points in tested - labelled for points in present)
    if again or of_test:
        click.echo(
            f"{place}: {count_of(again, 'cloud')} with labels left out; {count_of(of_test, 'test cloud')} among the others, "
            "whose labels are not looked at.",
            err=True,
        )
    return clouds.subset([number for number, points in enumerate(present) if points not in labelled])


def _parse_numbers(text: str, number: Any = int) -> list[Any]:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInputError(f"Give numbers joined by commas, such as 1,5,10; got {text!r}.") from error


def _load_series(values: dict[str, Any], folder: Path) -> Any:
    """Checks a command's values, then reads the data; returns the series of runs that they describe."""
    from i2p_zoo.data.specs import load_data
    from i2p_zoo.experiments.series import Series

    shared.check_network(values)
    train_set, test_set = load_data(values["data"])
    setup, options = shared.read_options(values, len(train_set))
    return Series(setup, train_set, test_set, options, folder, progress=True, device=values["device"], votes=values["votes"])


@click.command()
@shared.network_options()
@shared.start_options
@click.option("--methods", help="Joined by semicolons; by default all that MODEL and the features allow.")
@shared.default_option("--seeds", type=shared.COUNT, default=5)
def compare(methods: str | None, seeds: int, out: Path, as_json: bool, **values: Any) -> None:
    """Run ways to a classifier beside each other on all training clouds; a table with 95 % intervals.

    \b
    METHODS are
      all, io+bn, io+stats, io            image weights; what trains of them
      lora                                as io+stats, with low-rank changes of all other layers (extra lora)
      probe                               the classifier alone, on the image stem
      ridge                               no training: the classifier is solved for by ridge regression; also
                                          "ridge on the clouds' statistics", of BatchNorm
      pyramid, ridge                      likewise, of all feature maps by octants; "pyramid" trains on from there,
                                          at 0.02 where no rate is given, as "scratch, pyramid" does;
                                          also "pyramid, ridge on the clouds' statistics"
      pyramid and views, ridge            likewise, and what the 2D network sees of the voxels from six sides; also "on
                                          the clouds' statistics" and, of `i2p-zoo fewshot`, "with unlabelled clouds"
      scratch                             random weights, drawn in 3D; all trains; also "scratch, pyramid"
      frozen random, io+bn                the control: as io+bn, on random weights; also io+stats, io,
                                          "pyramid, ridge", that on the clouds' statistics, "pyramid and views, ridge"
      views; views, probe; views, ridge
                                          the 2D network on depth images of the cloud from six sides; also
                                          "frozen random, views, ridge"
      views by all maps, ridge            likewise, of all feature maps of each side, as "pyramid and views" reads them;
                                          also "frozen random, views by all maps, ridge"
      chamfer                             the class of the nearest training cloud, by the Chamfer distance

    Runs that --out holds already are not run again; several processes may share the methods, with the same --out.
    A method that draws nothing at random runs once. Seconds are of solving or training, without measuring.

    Example: i2p-zoo compare --model i2p-tf_efficientnet_lite0 --data kicad-mini --methods "all; scratch" --steps 60 --out all
    """  # noqa: D301
    from i2p_zoo.experiments.comparison import format_comparison, run_comparison

    names = None if methods is None else _parse_methods(methods)
    series, rate = _load_series(values, out), values["learning_rate"]
    with shared.repeatable(out):
        result = run_comparison(series, methods=names, seeds=seeds, learning_rate=rate)
    click.echo(format_json(result) if as_json else format_comparison(result).rstrip())


def _parse_methods(text: str) -> list[str]:
    """Names joined by semicolons, or by commas where none of them holds one."""
    return [name.strip() for name in text.split(";" if ";" in text or ", " in text else ",")]


@click.command()
@shared.network_options(steps=100, epochs=False)
@shared.start_options
@shared.default_option("--shots", default="1,5,10", help="Clouds of each class.")
@shared.default_option("--trials", type=shared.COUNT, default=3)
@shared.default_option("--methods", default="scratch; probe; io; io+bn; all", help="See `i2p-zoo compare --help`.")
def fewshot(shots: str, trials: int, methods: str, out: Path, as_json: bool, **values: Any) -> None:
    """Finetune on a few clouds of each class, the same for every method; a table like Image2Point's Table 3, and a plot.

    Runs that --out holds already are not run again.

    Example: i2p-zoo fewshot --model i2p-tf_efficientnet_lite0 --data kicad-mini --shots 1,5 --steps 60 --out few
    """
    from i2p_zoo.experiments.fewshot import format_table, run_fewshot

    counts, names = _parse_numbers(shots), _parse_methods(methods)
    series, rate = _load_series(values, out), values["learning_rate"]
    with shared.repeatable(out):
        result = run_fewshot(series, shots=counts, trials=trials, methods=names, learning_rate=rate)
    click.echo(format_json(result) if as_json else format_table(result).rstrip())


@click.command()
@shared.network_options()
@shared.start_options
@shared.default_option("--methods", default="all", help="Beside scratch; see `i2p-zoo compare --help`.")
@shared.default_option("--evaluate-every", type=shared.COUNT, default=10, help="Steps between points.")
@shared.default_option("--seeds", type=shared.COUNT, default=3)
@click.option("--target", type=float, help="Accuracy, a fraction; by default what training from scratch ends at.")
@click.option("--levels", help="More accuracies to tell the steps to, fractions, such as 0.7,0.75.")
@click.option(
    "--budgets", help="More numbers of steps to train the first method for, each by a whole schedule, such as 50,100."
)
def speedup(
    methods: str,
    seeds: int,
    target: float | None,
    levels: str | None,
    budgets: str | None,
    out: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure how much sooner image weights reach the accuracy that training from scratch ends at (Image2Point, Figure 3).

    Runs that --out holds already are not run again.

    Example: i2p-zoo speedup --model i2p-tf_efficientnet_lite0 --data kicad-mini --steps 60 --seeds 1 --out speedup
    """
    from i2p_zoo.experiments.speedup import format_speedup, run_speedup

    names, lengths = _parse_methods(methods), _parse_numbers(budgets) if budgets else ()
    shares = _parse_numbers(levels, float) if levels else ()
    series, rate = _load_series(values, out), values["learning_rate"]
    with shared.repeatable(out):
        result = run_speedup(
            series, methods=names, seeds=seeds, target=target, levels=shares, budgets=lengths, learning_rate=rate
        )
    if as_json:
        shared.print_json(result)
    else:
        click.echo(format_speedup(result).rstrip())


@click.command()
@shared.network_options()
@shared.start_options
@shared.mode_option(default="io+bn")
@click.option("--scratch", is_flag=True, help="Random weights, drawn in 3D, in place of the image's.")
@click.option("--method", help="Start from a method of `i2p-zoo compare` in place of --mode and --scratch.")
@click.option("--shots", type=shared.COUNT, help="Train on only this many clouds of each class.")
@click.option("--vary", multiple=True, metavar="SETTING=A;B;...", help="A setting and its values; by default all that matter.")
@shared.default_option("--seeds", type=shared.COUNT, default=3)
@shared.default_option("--hold-out", "held_out", type=shared.FRACTION, default=0.25, help="Fraction to judge by.")
def ablate(
    vary: tuple[str, ...], method: str | None, shots: int | None, seeds: int, out: Path, as_json: bool, **values: Any
) -> None:
    """Change one setting at a time and judge each on clouds held out of the training split.

    Runs that --out holds already are not run again.

    Example: i2p-zoo ablate --model i2p-tf_efficientnet_lite0 --data kicad-mini --vary "skip_downsamples=1;2;3" --out ablation
    """
    from i2p_zoo.experiments.ablation import format_ablation, run_ablation
    from i2p_zoo.experiments.methods import plan_method

    variations = dict(map(_parse_variation, vary)) if vary else None
    if len(variations or ()) < len(vary):
        raise InvalidInputError(f"--vary names each setting once; got {', '.join(vary)}.")
    series = _load_series(values, out)
    if method is not None:
        plan = plan_method(method, series.setup, series.options, values["learning_rate"])
        if plan is None:
            raise InvalidInputError(f"The method {method!r} has no settings to vary.")
        series = dataclasses.replace(series, setup=plan[0], options=plan[1])
    with shared.repeatable(out):
        result = run_ablation(series, variations=variations, seeds=seeds, held_out=values["held_out"], shots=shots)
    click.echo(format_json(result) if as_json else format_ablation(result).rstrip())


def _parse_variation(text: str) -> tuple[str, list[Any]]:
    name, mark, values = text.partition("=")
    if not mark or not values:
        raise InvalidInputError(f"--vary takes SETTING=A;B;..., such as 'skip_downsamples=1;2;3'; got {text!r}.")
    return name.strip(), [_parse_value(value.strip()) for value in values.split(";")]


def _parse_value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None}
    for parse in (lambda word: constants[word.lower()], int, float):
        with contextlib.suppress(KeyError, ValueError):
            return parse(text)
    return text
