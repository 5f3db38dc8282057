"""The options that commands share, and the settings that they give."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from i2p_zoo.choices import (
    AXES,
    CLASSIFIERS,
    INFLATIONS,
    KEPT_WEIGHTS,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    READOUTS,
    RUN_MODES,
    STATISTICS,
    STEMS,
)
from i2p_zoo.cli.checkpoint_folders import check_place
from i2p_zoo.cli.training_recipes import Recipe, describe_recipe
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.wording import format_json


class GivenPath(click.Path):
    """A path that is not empty: `--out ""`, where a shell's variable is not set, would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path; raises click's error for none, or for a file in place of a folder and the reverse."""
        if not os.fspath(value):
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


class OutputPath(GivenPath):
    """A file or folder that is to be written, whose place is looked at before any work is done for it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path; raises as `check_output`."""
        path = Path(super().convert(value, param, ctx))
        check_output(param.opts[0] if param is not None else "output", path, is_folder=not self.file_okay)
        return path


def check_output(option: str, path: Path, *, is_folder: bool) -> None:
    """Raises InvalidInputError where a file's folder, or the first that exists on the way to a folder, cannot be written."""
    place = path if is_folder else path.parent
    while is_folder and not place.exists() and place.parent != place:
        place = place.parent
    if not place.is_dir():
        raise InvalidInputError(f"{option} {path}: {place} is no folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InvalidInputError(f"{option} {path}: the folder {place} cannot be written.")


WEIGHT_DECAYS = {"sgd": 1e-4, "adamw": 0.05}
STEPS = 300
POSITIVE = click.FloatRange(min=0, min_open=True)
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)
SHARE = click.FloatRange(0, 1, max_open=True)
COUNT = click.IntRange(min=1)
INPUT = GivenPath(path_type=Path)
FOLDER, FILE = OutputPath(path_type=Path, file_okay=False), OutputPath(path_type=Path, dir_okay=False)
"""What a command writes; `INPUT` is what it reads."""
_NATURAL = click.IntRange(min=0)

default_option = functools.partial(click.option, show_default=True)

columns_option = click.option(
    "--columns", help="Of .bin, .npy and text files: how many columns a point has, or their names, such as x,y,z,nx,ny,nz."
)
device_option = default_option(
    "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="Where networks run; auto is the GPU, where there is one."
)
votes_option = default_option(
    "--votes", type=COUNT, default=1, help="Grids of voxels on which each cloud is seen; probabilities are averaged."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
inflation_option = default_option("--inflation", type=click.Choice(INFLATIONS), default="center")
axis_option = default_option("--axis", type=click.Choice(AXES), default="z")
depth_option = click.option("--depth", type=COUNT, help="Longest kernel along the new axis.")


def mode_option(default: str = "all", text: str = "What trains.", without: Sequence[str] = ("none",)) -> Callable[[Any], Any]:
    """Returns the option of what trains, with its default and help, and the modes that it leaves out."""
    modes = [mode for mode in RUN_MODES if mode not in without]
    return default_option("--mode", type=click.Choice(modes), default=default, help=text)


def decorate(options: Sequence[Any]) -> Callable[[Any], Any]:
    """Returns a decorator that gives a command these options, in their order."""
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


block_options = decorate(
    [
        click.option(
            "--block", type=POSITIVE, help="Edge of the blocks in which scenes are segmented; by default whole scenes."
        ),
        default_option("--overlap", type=SHARE, default=0.25, help="Fraction that a block shares with the next."),
    ]
)


def network_options(
    *,
    data: str = "Labelled clouds: see `i2p-zoo finetune --help`.",
    voxel_size: str = "Edge of a voxel; objects fill the unit sphere.",
    learning_rate: str = "0.05 by default for mode all, 0.1 for lora, 0.2 for others; adamw has none.",
    steps: int = STEPS,
    epochs: bool = True,
) -> Callable[[Any], Any]:
    """Returns a decorator that gives a command the options of a network and its training.

    Args:
        data, voxel_size, learning_rate: texts of the help that differ between clouds and scenes.
        steps: how many there are by default.
        epochs: whether they can be given as passes over the training data instead.
    """
    batches = f"Batches to train on; by default {steps}."
    return decorate(
        [
            click.option("--model", required=True, metavar="NAME|FOLDER", help="A zoo or Hub name, or a checkpoint's folder."),
            click.option("--data", required=True, metavar="SPEC", help=data),
            click.option("--inflation", type=click.Choice(INFLATIONS), help="By default average, and of a folder its own."),
            click.option("--axis", type=click.Choice(AXES), help="Of the inflation; by default z, and of a folder its own."),
            click.option(
                "--preset",
                type=click.Choice(PRESETS),
                help="The paper's own network of ResNet-18, 50, 101 or 152, with inflation copy and stem point; it has "
                "--skip-downsamples 0.",
            ),
            default_option("--stem", type=click.Choice(STEMS), default="point"),
            default_option(
                "--skip-downsamples", type=_NATURAL, default=3, help="How many of the first halvings run at stride 1."
            ),
            default_option("--voxel-size", type=POSITIVE, default=0.07, help=voxel_size),
            default_option(
                "--features",
                default="xyz",
                help="What a voxel carries: xyz, normals, rgb, intensity, ones, extra, field:NAME, joined by commas.",
            ),
            click.option("--steps", type=_NATURAL, default=None if epochs else steps, help=batches),
            *([click.option("--epochs", type=float, help="The same, in passes over the training data.")] if epochs else []),
            default_option("--batch-size", type=COUNT, default=32),
            click.option("--lr", "learning_rate", type=float, help=f"Peak learning rate; {learning_rate}"),
            default_option(
                "--warm-up",
                type=click.FloatRange(0, 1),
                default=0.2,
                help="Fraction of the steps over which the learning rate rises, before it falls as half a cosine.",
            ),
            default_option(
                "--body-rate",
                type=POSITIVE,
                default=1.0,
                help="Factor of the learning rate of all but input layers and classifier.",
            ),
            default_option("--lora-rank", type=COUNT, default=8, help="Of the low-rank changes of mode lora."),
            click.option("--weight-decay", type=float, help="By default 0.0001, and 0.05 with adamw."),
            default_option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd"),
            default_option("--label-smoothing", type=SHARE, default=0.0),
            default_option(
                "--precision",
                type=click.Choice(PRECISIONS),
                default="auto",
                help="Of autocast; auto is bf16 on a GPU that has it, and no elsewhere.",
            ),
            device_option,
            click.option("--out", required=True, type=FOLDER, help="Folder to write."),
            json_option,
        ]
    )


run_options = decorate(
    [
        click.option("--scratch", is_flag=True, help="Random weights, drawn in 3D, in place of the image's."),
        click.option(
            "--hold-out", "held_out", type=FRACTION, help="Fraction of the training split to monitor, not to train on."
        ),
        click.option("--monitor-test", is_flag=True, help="Measure the test split along the way, for a learning curve."),
        click.option("--evaluate-every", type=COUNT, help="Steps between measurements of what is monitored."),
        default_option("--keep", type=click.Choice(KEPT_WEIGHTS), default="last", help="Which weights."),
        click.option(
            "--target", type=click.FloatRange(0, 1), help="Stop at this accuracy, or mIoU, a fraction, of what is monitored."
        ),
        click.option("--ema", type=SHARE, help="Decay of an average of the weights, which is kept instead."),
        default_option("--accumulate", type=COUNT, default=1, help="Parts of a batch."),
        default_option(
            "--workers", type=_NATURAL, default=0, help="Processes that draw and voxelize batches ahead: 2 to 4 for scenes."
        ),
        default_option("--seed", type=click.IntRange(0, 2**32 - 1), default=0),
        click.option("--adapter", is_flag=True, help="Save only what was trained."),
        click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files too."),
        click.option("--resume", is_flag=True, help="Go on with the run in --out where it was stopped."),
    ]
)


start_options = decorate(
    [
        default_option(
            "--statistics",
            type=click.Choice(STATISTICS),
            default="image",
            help="Of BatchNorm before training: the image's, or those of the clouds to train on.",
        ),
        default_option(
            "--readout",
            type=click.Choice(READOUTS),
            default="last",
            help="What the classifier reads: the mean of the last feature map, or all maps by octants of the cloud's box, "
            "also with those that the 2D network has of six depth images.",
        ),
        default_option(
            "--classifier",
            type=click.Choice(CLASSIFIERS),
            default="random",
            help="Before training; ridge solves for it by ridge regression.",
        ),
        votes_option,
    ]
)


def are_given(*names: str) -> bool:
    """Whether the command that runs got any of these parameters, in place of their defaults."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in names)


def print_json(values: Any, indent: int | None = None) -> None:
    """Prints values as JSON."""
    click.echo(format_json(values, indent))


def print_written(out: Path, *names: str) -> None:
    """Prints which of these files and folders a run wrote: one without steps has no curves."""
    click.echo(f"in {out}: {', '.join(name for name in names if (out / name).exists())}")


@contextlib.contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Says of a run that is interrupted what its folder holds, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        from i2p_zoo.experiments.run_folder import TRAINING
        from i2p_zoo.finetune.training_state import count_steps

        steps = count_steps(out / TRAINING)
        state = f"{out} holds the state after step {steps}; the same command with --resume goes on from there."
        raise KeyboardInterrupt(state if steps else "nothing was trained; run the same command again.") from interruption


@contextlib.contextmanager
def repeatable(out: Path) -> Iterator[None]:
    """Says of a series of runs that is interrupted how it goes on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        words = f"{out} holds what was trained; the same command goes on from there."
        raise KeyboardInterrupt(words) from interruption


def read_options(values: dict[str, Any], samples: int) -> tuple[Any, Any]:
    """Splits a command's values into a setup and the training's options, for so many samples of the training split.

    Raises:
        InvalidInputError: options that exclude each other or are out of range.
    """
    from i2p_zoo.experiments import Setup
    from i2p_zoo.finetune import Options

    chosen = {key: value for key, value in values.items() if value is not None}
    setup = Setup(**{f.name: chosen[f.name] for f in dataclasses.fields(Setup) if f.name in chosen})
    if "epochs" in chosen:
        if "steps" in chosen:
            raise InvalidInputError("Give --steps or --epochs, not both.")
        if not 0 < chosen["epochs"] < float("inf"):
            raise InvalidInputError(f"--epochs must be a positive number; got {chosen['epochs']}.")
        trained = round(samples * (1 - chosen.get("held_out", 0)))
        chosen["steps"] = max(1, round(chosen["epochs"] * trained / chosen["batch_size"]))
    if chosen["optimizer"] == "adamw" and "learning_rate" not in chosen:
        raise InvalidInputError("Give --lr with --optimizer adamw: the default learning rates are SGD's.")
    defaults = {"steps": STEPS, "learning_rate": setup.learning_rate, "weight_decay": WEIGHT_DECAYS[chosen["optimizer"]]}
    chosen = defaults | chosen
    return setup, Options(**{f.name: chosen[f.name] for f in dataclasses.fields(Options) if f.name in chosen})


def read_run_options(values: dict[str, Any], progress: str, recipe: Recipe | None = None) -> Any:
    """Returns what a command's values say of its run, with the label of its progress bar and the recipe that it follows."""
    from i2p_zoo.experiments import RunOptions

    fields = {name: values[name] for name in ("held_out", "monitor_test", "resume", "tensorboard", "device")}
    chosen = {"save": "adapter" if values["adapter"] else "model", "votes": values.get("votes", 1)}  # scenes have no votes
    described = None if recipe is None else describe_recipe(recipe)
    return RunOptions(**fields, **chosen, progress=progress, recipe=described)


def check_network(values: dict[str, Any]) -> None:
    """Makes sure, before any data are read, that there are such a network and device, and that its options are in range.

    Raises:
        NotFoundError: a name that is none of timm's.
        UnsupportedError: a preset that a named network does not have.
        InvalidInputError: as `check_place`, `find_device` and `read_options`.
    """
    from i2p_zoo.finetune.devices import find_device
    from i2p_zoo.names import split_name
    from i2p_zoo.networks.presets import check_preset

    find_device(values["device"])
    name = values["model"]
    check_place(name)
    if "/" not in name and not Path(name).is_dir():
        architecture, _ = split_name(name.partition("@")[0])
        check_preset(values["preset"], architecture)
    read_options(values, 1)


def check_run(values: dict[str, Any]) -> None:
    """Makes sure, before any data are read, that the options of a run go together.

    Raises:
        NotFoundError, UnsupportedError, InvalidInputError: as `check_network`, or weights are to be chosen, or the run to be
            stopped, by nothing or by the test split; or an adapter is to be saved of random weights.
    """
    held_out, target = values["held_out"], values["target"]
    choosing = "--keep best" if values["keep"] == "best" else "" if target is None else f"--target {target}"
    if values["monitor_test"] and (choosing or held_out is not None):
        raise InvalidInputError(
            "Which weights to keep and when to stop is chosen on what is held out of training, never on the test split: leave "
            f"out --monitor-test{f', and give --hold-out 0.2 for {choosing}' if held_out is None else ''}."
        )
    if choosing and held_out is None:
        raise InvalidInputError(f"{choosing} needs a part of the training split to judge by: give --hold-out 0.2, for example.")
    if values["scratch"] and values["adapter"]:
        raise InvalidInputError(
            "--adapter saves what differs from image weights, and --scratch has none: leave one of them out."
        )
    check_network(values)
