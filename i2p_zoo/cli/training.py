"""Commands that train: finetune | fewshot | speedup | ablate."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from i2p_zoo.cli.catalog import json_option
from i2p_zoo.cli.checkpoint_folders import check_place, load_network
from i2p_zoo.errors import InvalidInputError

_WEIGHT_DECAYS = {"sgd": 1e-4, "adamw": 0.05}
_FEW_STEPS = 100
_FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)
POSITIVE = click.FloatRange(min=0, min_open=True)
_MODES = ["all", "io+bn", "io+stats", "io", "head"]


def decorate(options: list[Any]) -> Callable[[Any], Any]:
    """Returns a decorator that gives a command these options, in their order."""

    def give(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def network_options(
    *,
    data: str = "Labelled clouds: see `i2p-zoo finetune --help`.",
    voxel_size: str = "Edge of a voxel; objects fill the unit sphere.",
    learning_rate: str = "by default 0.05 for mode all and from scratch, and 0.2 for other modes; adamw has no default.",
    steps: int = 300,
    epochs: bool = True,
) -> Callable[[Any], Any]:
    """Returns a decorator that gives a command the options of a network and its training.

    Args:
        data, voxel_size, learning_rate: texts of the help that differ between clouds and scenes.
        steps: how many there are by default.
        epochs: whether they can be told in passes over the training data.
    """
    inflations, axes = click.Choice(["center", "average", "copy"]), click.Choice(["z", "y", "x"])
    lengths = [
        click.option("--steps", type=click.IntRange(min=1), help=f"Batches to train on; by default {steps}."),
        click.option("--epochs", type=float, help="The same, in passes over the training data."),
    ]
    return decorate(
        [
            click.option("--model", required=True, metavar="NAME|FOLDER", help="A zoo or Hub name, or a checkpoint's folder."),
            click.option("--data", required=True, metavar="SPEC", help=data),
            click.option("--inflation", type=inflations, help="By default average, and of a folder its own."),
            click.option("--axis", type=axes, help="Of the inflation; by default z, and of a folder its own."),
            click.option("--stem", type=click.Choice(["point", "image"]), default="point", show_default=True),
            click.option(
                "--skip-downsamples",
                type=click.IntRange(min=0),
                default=3,
                show_default=True,
                help="How many of the first halvings run at stride 1.",
            ),
            click.option("--voxel-size", type=POSITIVE, default=0.07, show_default=True, help=voxel_size),
            click.option(
                "--features",
                default="xyz",
                show_default=True,
                help="What a voxel carries: xyz, normals, rgb, ones, extra, joined by commas.",
            ),
            *(lengths if epochs else lengths[:1]),
            click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True),
            click.option("--lr", "learning_rate", type=float, help=f"Peak learning rate; {learning_rate}"),
            click.option("--weight-decay", type=float, help="By default 0.0001, and 0.05 with adamw."),
            click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True),
            click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True),
            click.option("--precision", type=click.Choice(["no", "bf16", "fp16"]), default="no", show_default=True),
            click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write."),
            json_option,
        ]
    )


run_options = decorate(
    [
        click.option("--scratch", is_flag=True, help="Random weights instead of the image's."),
        click.option(
            "--hold-out", "held_out", type=_FRACTION, help="Fraction of the training split to monitor, not to train on."
        ),
        click.option("--monitor-test", is_flag=True, help="Measure the test split along the way, for a learning curve."),
        click.option("--evaluate-every", type=click.IntRange(min=1), help="Steps between measurements of what is monitored."),
        click.option("--keep", type=click.Choice(["last", "best"]), default="last", show_default=True, help="Which weights."),
        click.option(
            "--target", type=click.FloatRange(0, 1), help="Stop at this accuracy, or mIoU, a fraction, of what is monitored."
        ),
        click.option(
            "--ema",
            type=click.FloatRange(0, 1, max_open=True),
            help="Decay of an average of the weights, which is kept instead.",
        ),
        click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Parts of a batch."),
        click.option(
            "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that make batches."
        ),
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
        click.option("--adapter", is_flag=True, help="Save only what was trained."),
        click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files too."),
        click.option("--resume", is_flag=True, help="Go on with the run in --out where it was stopped."),
    ]
)


def read_options(given: dict[str, Any], count: int) -> tuple[Any, Any]:
    """Splits a command's options into a setup and the training's options, for `count` samples that are trained on.

    Raises:
        InvalidInputError: options that exclude each other or are out of range.
    """
    from i2p_zoo.experiments import Setup
    from i2p_zoo.finetune import Options

    values = {key: value for key, value in given.items() if value is not None}
    setup = Setup(**{f.name: values[f.name] for f in dataclasses.fields(Setup) if f.name in values})
    if "epochs" in values:
        if "steps" in values:
            raise InvalidInputError("Give --steps or --epochs, not both.")
        if not 0 < values["epochs"] < float("inf"):
            raise InvalidInputError(f"--epochs must be a positive number; got {values['epochs']}.")
        values["steps"] = max(1, round(values["epochs"] * count / given["batch_size"]))
    if given.get("optimizer") == "adamw" and "learning_rate" not in values:
        raise InvalidInputError("Give --lr with --optimizer adamw: the default learning rates are SGD's.")
    values.setdefault("learning_rate", setup.learning_rate)
    values.setdefault("weight_decay", _WEIGHT_DECAYS[given["optimizer"]])
    values.setdefault("steps", 300)
    return setup, Options(**{f.name: values[f.name] for f in dataclasses.fields(Options) if f.name in values})


def check_run_options(given: dict[str, Any], held_out: float | None, monitor_test: bool, adapter: bool) -> None:
    """Makes sure, before any data are read, that the options of a run go together.

    Raises:
        InvalidInputError: weights are to be chosen, or the run to be stopped, by nothing or by the test split; or an adapter is
            to be saved of random weights.
    """
    chooses = "--keep best" if given["keep"] == "best" else "" if given["target"] is None else f"--target {given['target']}"
    if monitor_test and (chooses or held_out is not None):
        raise InvalidInputError(
            "Which weights to keep and when to stop is chosen on what is held out of training, never on the test split: leave "
            f"out --monitor-test{f', and give --hold-out 0.2 for {chooses}' if held_out is None else ''}."
        )
    if chooses and held_out is None:
        raise InvalidInputError(f"{chooses} needs a part of the training split to judge by: give --hold-out 0.2, for example.")
    if given["scratch"] and adapter:
        raise InvalidInputError(
            "--adapter saves what differs from image weights, and --scratch has none: leave one of them out."
        )


def check_network(given: dict[str, Any]) -> None:
    """Makes sure, before any data are read, that there is such a network, and that its options are in range.

    Raises:
        NotFoundError: a name that is none of timm's.
        InvalidInputError: as `check_place` and `read_options`.
    """
    from i2p_zoo.names import split_name

    name = given["model"]
    check_place(name)
    if "/" not in name and not Path(name).is_dir():
        split_name(name.partition("@")[0])
    read_options(given, 1)


def _read(given: dict[str, Any], held_out: float = 0.0) -> tuple[Any, Any, Any, Any]:
    from i2p_zoo.data.specs import load_data

    check_network(given)
    train_set, test_set = load_data(given["data"])
    setup, options = read_options(given, round(len(train_set) * (1 - held_out)))
    return setup, train_set, test_set, options


@click.command()
@network_options()
@click.option("--mode", type=click.Choice(_MODES), default="all", show_default=True, help="What trains.")
@click.option("--shots", type=click.IntRange(min=1), help="Train on this many clouds of each class alone.")
@click.option(
    "--teacher", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Label the clouds by this network."
)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of a teacher's soft labels.")
@click.option("--threshold", type=float, help="Hard labels where the teacher is at least this sure; others are left out.")
@run_options
def finetune(
    shots: int | None,
    teacher: Path | None,
    threshold: float | None,
    held_out: float | None,
    monitor_test: bool,
    adapter: bool,
    tensorboard: bool,
    resume: bool,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Finetune an image network on labelled clouds; writes the network, metrics.json, curves.png and confusion.png.

    \b
    SPEC is one of
      kicad-mini                      the clouds that a checkout carries
      modelnet40:FOLDER               PointNet's HDF5 files or Princeton's meshes
      scanobjectnn:FOLDER             h5_files, the hardest variant
      scanobjectnn-objects:FOLDER     h5_files, the objects alone
      scanobjectnn-background:FOLDER  h5_files, the objects and what is around them
      shapenet55:FOLDER               Point-BERT's files
      npz:FILE                        points, label, split, classes and, optionally, normals and colors
      folder:FOLDER                   a folder a class, of meshes or clouds

    With several GPUs or machines: accelerate launch -m i2p_zoo finetune ...

    Example: i2p-zoo finetune --model i2p-tf_efficientnet_lite0 --data kicad-mini --mode io+bn --steps 60 --out run
    """  # noqa: D301
    from i2p_zoo.data import choose_shots
    from i2p_zoo.data.specs import load_data
    from i2p_zoo.experiments import run
    from i2p_zoo.finetune import label_by_teacher

    check_run_options(given, held_out, monitor_test, adapter)
    if threshold is not None and teacher is None:
        raise InvalidInputError(f"--threshold {threshold} is about the labels of a teacher: give --teacher FOLDER as well.")
    check_network(given)
    train_set, test_set = load_data(given["data"])
    if shots is not None:
        train_set = choose_shots(train_set, shots, given["seed"])
    if teacher is not None:
        network = load_network(str(teacher))
        train_set = label_by_teacher(network, train_set, temperature=given["temperature"], threshold=threshold)
    setup, options = read_options(given, round(len(train_set) * (1 - (held_out or 0))))
    metrics = run(
        setup,
        train_set,
        test_set,
        options,
        out,
        held_out=held_out,
        monitor_test=monitor_test,
        resume=resume,
        save="adapter" if adapter else "model",
        tensorboard=tensorboard,
        progress="finetuning",
        place=True,
    )
    if int(os.environ.get("RANK", "0")):  # of several processes the first one tells
        return
    if as_json:
        click.echo(json.dumps({key: value for key, value in metrics.items() if key != "history"}))
        return
    test = metrics["test"]
    click.echo(f"test accuracy {100 * test['top1']:.1f} %, mean over classes {100 * test['mean_class']:.1f} %")
    click.echo(f"trained {metrics['trained']:,d} of {metrics['total']:,d} parameters in {metrics['seconds']:.0f} s")
    if options.target is not None:
        reached = metrics["reached"]
        told = f"reached at step {reached['step']}, {reached['seconds']:.0f} s" if reached else "never reached"
        click.echo(f"target {100 * options.target:.1f} % {told}")
    click.echo(f"in {out}: {metrics['saved']}, metrics.json, curves.png, confusion.png")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInputError(f"Numbers joined by commas are wanted, such as 1,5,10; got {text!r}.") from error


@click.command()
@network_options(steps=_FEW_STEPS, epochs=False)
@click.option("--shots", default="1,5,10", show_default=True, help="Clouds of each class.")
@click.option("--trials", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--methods", default="scratch,probe,io,io+bn,all", show_default=True)
def fewshot(shots: str, trials: int, methods: str, out: Path, as_json: bool, **given: Any) -> None:
    """Finetune on a few clouds of each class, the same for every method; a table like Image2Point's Table 3, and a plot.

    Runs that --out holds already are not run again.

    Example: i2p-zoo fewshot --model i2p-tf_efficientnet_lite0 --data kicad-mini --shots 1,5 --steps 60 --out few
    """
    from i2p_zoo.experiments.fewshot import format_table, run_fewshot

    rate = given["learning_rate"]
    given = {**given, "steps": given["steps"] or _FEW_STEPS}
    counts = _numbers(shots)
    setup, train_set, test_set, options = _read(given)
    result = run_fewshot(
        setup,
        train_set,
        test_set,
        options,
        out,
        shots=counts,
        trials=trials,
        methods=[name.strip() for name in methods.split(",")],
        learning_rate=rate,
        progress=True,
        place=True,
    )
    click.echo(json.dumps(result) if as_json else format_table(result).rstrip())


@click.command()
@network_options()
@click.option("--mode", type=click.Choice(_MODES), default="all", show_default=True, help="What trains of the image network.")
@click.option("--evaluate-every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between points.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--target", type=float, help="Accuracy, a fraction; by default what training from scratch ends at.")
@click.option("--budgets", help="Steps to train image weights for besides, each by a whole schedule, such as 50,100.")
def speedup(seeds: int, target: float | None, budgets: str | None, out: Path, as_json: bool, **given: Any) -> None:
    """Measure how much sooner image weights reach the accuracy that training from scratch ends at (Image2Point, Figure 3).

    Runs that --out holds already are not run again.

    Example: i2p-zoo speedup --model i2p-tf_efficientnet_lite0 --data kicad-mini --steps 60 --seeds 1 --out speedup
    """
    from i2p_zoo.experiments.speedup import run_speedup

    lengths = _numbers(budgets) if budgets else ()
    setup, train_set, test_set, options = _read(given)
    result = run_speedup(
        setup,
        train_set,
        test_set,
        options,
        out,
        seeds=seeds,
        target=target,
        budgets=lengths,
        learning_rate=given["learning_rate"],
        progress=True,
        place=True,
    )
    if as_json:
        click.echo(json.dumps(result))
        return
    for number, row in enumerate(result["seeds"]):
        click.echo(f"seed {number}: target {100 * row['target']:.1f} %")
        for name in ("image weights", "scratch"):
            took = row[name]
            when = "never" if took["steps"] is None else f"after {took['steps']} steps, {took['seconds']:.0f} s"
            click.echo(f"  {name:<13} {when}; ends at {100 * took['final']:.1f} %")
    for steps, top1 in result["budgets"].items():
        click.echo(f"{steps} steps with image weights end at {' '.join(f'{100 * value:.1f}' for value in top1)} %")
    if result["steps_ratio"] is not None:
        click.echo(f"{result['steps_ratio']:.1f} times fewer steps, {result['seconds_ratio']:.1f} times fewer seconds")


@click.command()
@network_options()
@click.option("--mode", type=click.Choice(_MODES), default="io+bn", show_default=True, help="What trains.")
@click.option("--vary", multiple=True, metavar="SETTING=A;B;...", help="A setting and its values; by default all that matter.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--hold-out", "held_out", type=_FRACTION, default=0.25, show_default=True, help="Fraction to judge by.")
def ablate(vary: tuple[str, ...], seeds: int, held_out: float, out: Path, as_json: bool, **given: Any) -> None:
    """Change one setting at a time and judge each on clouds held out of the training split.

    Runs that --out holds already are not run again.

    Example: i2p-zoo ablate --model i2p-tf_efficientnet_lite0 --data kicad-mini --vary "skip_downsamples=1;2;3" --out ablation
    """
    from i2p_zoo.experiments.ablation import format_ablation, run_ablation

    setup, train_set, test_set, options = _read(given, held_out)
    variations = dict(map(_parse_variation, vary)) if vary else None
    if len(variations or ()) < len(vary):
        raise InvalidInputError(f"--vary names each setting once; got {', '.join(vary)}.")
    how: dict[str, Any] = {"variations": variations, "seeds": seeds, "held_out": held_out}
    result = run_ablation(setup, train_set, test_set, options, out, **how, progress=True, place=True)
    click.echo(json.dumps(result) if as_json else format_ablation(result).rstrip())


def _parse_variation(text: str) -> tuple[str, list[Any]]:
    name, mark, values = text.partition("=")
    if not mark or not values:
        raise InvalidInputError(f"--vary takes SETTING=A;B;..., such as 'skip_downsamples=1;2;3'; got {text!r}.")
    return name.strip(), [_parse_value(value.strip()) for value in values.split(";")]


def _parse_value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
