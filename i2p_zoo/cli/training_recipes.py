"""Recipes: all options of a command that trains a network on one data set, where each comes from, and what it should reach.

They are defaults, which options that are given replace. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

REPORTER = "Image2Point"
_CODE = "Image2Point's published code, configs/{}.yaml"
_NETWORK = {"preset": "image2point", "inflation": "copy", "axis": "z", "stem": "point", "skip_downsamples": 0}
_NO_RISE = {"warm_up": 0.0}


@dataclass(frozen=True)
class Reported:
    """A figure that somebody reports of a recipe.

    Attributes:
        percent: of test clouds, or mean IoU.
        options: what the command has in place of the recipe's.
    """

    percent: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on one data set.

    Attributes:
        command: "finetune" or "segment train".
        data: what `--data` is, or stands before its colon.
        title: of the data set.
        settings: options by the command's parameters, under where they come from.
        metric: "top-1 accuracy" or "mean IoU".
        reporter: who reports the figures.
        reported: what is to be expected; empty where nobody reports any.
        differs: what the reporter did otherwise, or why there are no figures, in sentences; "" for nothing.
        license: of the data, as the Hub spells it; "" where the data set has terms of its own.
        network: name of the network that the zoo has of it; "" for none.
    """

    command: str
    data: str
    title: str
    settings: Mapping[str, Mapping[str, Any]]
    metric: str = "top-1 accuracy"
    reporter: str = REPORTER
    reported: tuple[Reported, ...] = ()
    differs: str = ""
    license: str = ""
    network: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """All options by the command's parameters."""
        return {name: value for group in self.settings.values() for name, value in group.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where each option comes from."""
        return {name: source for source, group in self.settings.items() for name in group}


_MODELNET40 = {
    _CODE.format("modelnet/18_finetune"): {
        "model": "i2p-resnet18.tv_in1k",
        "mode": "all",
        "voxel_size": 0.05,
        "features": "xyz",
        "epochs": 100.0,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        **_NO_RISE,
    },
    "Image2Point, section 3, and its published code": _NETWORK,
}
_RESNET50, _RESNET152 = "i2p-resnet50.tv_in1k", "i2p-resnet152.tv_in1k"

RECIPES: dict[str, Recipe] = {
    "kicad-mini": Recipe(
        "finetune",
        "kicad-mini",
        "KiCad's electronic components, 10 classes",
        {
            "measured here, docs/results.md, What the settings do": {
                "inflation": "average",
                "axis": "z",
                "stem": "point",
                "skip_downsamples": 3,
                "voxel_size": 0.07,
                "features": "xyz",
                "learning_rate": 0.2,
            },
            "as all figures of kicad-mini in docs/results.md": {
                "model": "i2p-tf_efficientnet_lite0",
                "steps": 60,
                "batch_size": 32,
                "optimizer": "sgd",
                "weight_decay": 1e-4,
                "warm_up": 0.2,
            },
            "Image2Point's FIP-IO+BN": {"mode": "io+bn"},
            "the repository carries the data; 1.4 % of the network is trained": {"data": "kicad-mini", "adapter": True},
        },
        reporter="docs/results.md, mean of three seeds",
        reported=(
            Reported(68.2),
            Reported(76.4, {"mode": "all", "learning_rate": 0.05}),
            Reported(67.2, {"mode": "all", "learning_rate": 0.05, "scratch": True}),
        ),
        license="cc-by-sa-4.0",
        network="i2p-tf_efficientnet_lite0.kicad-mini",
    ),
    "modelnet40": Recipe(
        "finetune",
        "modelnet40",
        "ModelNet40",
        _MODELNET40,
        reported=(
            Reported(90.52),
            Reported(90.39, {"scratch": True}),
            Reported(78.69, {"mode": "io"}),
            Reported(90.92, {"model": _RESNET50}),
            Reported(90.32, {"model": _RESNET50, "scratch": True}),
            Reported(81.20, {"model": _RESNET50, "mode": "io"}),
            Reported(91.09, {"model": _RESNET152}),
            Reported(90.28, {"model": _RESNET152, "scratch": True}),
            Reported(90.44, {"model": _RESNET152, "mode": "io+bn"}),
        ),
        differs="It rounds coordinates to voxels and keeps one point of each, its momentum is not Nesterov's, its cosine goes "
        "by epochs but is stepped each batch, and it reports the best epoch on the test set; here it is the last one.",
    ),
    "scanobjectnn": Recipe(
        "finetune",
        "scanobjectnn",
        "ScanObjectNN, the hardest variant",
        {f"{source}, for ModelNet40": group for source, group in _MODELNET40.items()},
        differs="Image2Point has no figures of this data set, and nobody measured these settings, which are its own of "
        "ModelNet40. To compare: P2P, which puts projections of the clouds through the same network, reports 82.6 % with "
        "ResNet-18 and 85.8 % with ResNet-50.",
    ),
    "s3dis": Recipe(
        "segment train",
        "s3dis",
        "S3DIS, Area 5 for the test",
        {
            _CODE.format("s3dis/finetune"): {
                "model": "i2p-resnet18.tv_in1k",
                "mode": "all",
                "voxel_size": 0.05,
                "features": "xyz,rgb",
                "crop": 8.0,
                "steps": 10_400,
                "optimizer": "sgd",
                "learning_rate": 0.1,
                "weight_decay": 1e-4,
                "loss": "cross-entropy",
                **_NO_RISE,
            },
            "10,400 steps of it are its 400 epochs of 204 rooms": {"batch_size": 8},
            "Image2Point, section 3, and its published code": _NETWORK,
            "ours: what memory needs": {"block": 8.0, "overlap": 0.25, "max_points": 400_000},
        },
        metric="mean IoU",
        reported=(Reported(56.62), Reported(55.09, {"scratch": True})),
        differs="It crops the middle of a room and measures that alone, flips rooms and changes colours where ours are turned "
        "and scaled, has 3 crops a process, of how many it does not say, and its rate falls as a polynomial of degree 0.9.",
    ),
    "semantickitti": Recipe(
        "segment train",
        "semantickitti",
        "SemanticKITTI, sequence 08 for the test",
        {
            _CODE.format("semantic_kitti/finetune"): {
                "model": "i2p-resnet18.tv_in1k",
                "mode": "all",
                "voxel_size": 0.05,
                "features": "xyz,intensity",
                "max_points": 80_000,
                "epochs": 15.0,
                "batch_size": 2,
                "optimizer": "sgd",
                "learning_rate": 0.24,
                "weight_decay": 1e-4,
                "loss": "cross-entropy",
                **_NO_RISE,
            },
            "Image2Point, section 3, and its published code": _NETWORK,
        },
        metric="mean IoU",
        reported=(Reported(65.57), Reported(64.75, {"scratch": True})),
        differs="It has 2 scans a process, of how many it does not say; with more than one its rate rises over the first 2,000 "
        "scans.",
    ),
}
"""By name. Figures of Image2Point are those of its ICLR 2022 submission."""

_REPLACED_BY = {
    "epochs": "steps",
    "steps": "epochs",
    "learning_rate": "optimizer",
    "weight_decay": "optimizer",
    "adapter": "scratch",  # which has no image weights to save a difference from
}
_WITHOUT_INFLUENCE = {
    *("recipe", "data", "out", "device", "precision", "workers", "accumulate", "seed", "adapter", "tensorboard", "resume"),
    *("as_json", "monitor_test", "evaluate_every"),
}
"""Options that do not make another recipe; of `data` its name is compared."""


def recipe_option(command: str) -> Callable[[Any], Any]:
    """Returns the option `--recipe` of a command, whose choice gives the defaults of all others."""
    names = [name for name, recipe in RECIPES.items() if recipe.command == command]
    return click.option(
        "--recipe",
        type=click.Choice(names),
        is_eager=True,
        callback=_take_defaults,
        help="Defaults of all options for a data set, such as Image2Point's; --recipe NAME --help shows them.",
    )


def _take_defaults(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None:
        context.default_map = {**(context.default_map or {}), **RECIPES[name].options}
        context.show_default = True
    return name


def choose_recipe_(values: dict[str, Any]) -> Recipe | None:
    """Returns the recipe of the command that runs, whose values it takes out where another that was given replaces them.

    These are steps by epochs and the reverse, the rates by another optimizer, and the adapter by random weights.

    Args:
        values: of the command, in place; `recipe` is taken out.
    """
    name = values.pop("recipe")
    if name is None:
        return None
    recipe, options = RECIPES[name], RECIPES[name].options
    for replaced, other in _REPLACED_BY.items():
        is_replaced = replaced in options and not _is_typed(replaced) and _is_typed(other)
        if is_replaced and values[other] != options.get(other):
            values[replaced] = None
    return recipe


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """Returns what metrics.json says of the recipe of the command that runs, as JSON types."""
    changes, name = find_changes(recipe), click.get_current_context().params["recipe"]
    is_on_its_data = "data" not in changes
    return {
        "name": name,
        "changes": {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()},
        "data": recipe.title if is_on_its_data else None,
        "license": (recipe.license or None) if is_on_its_data else None,
        "command": None if changes else format_command(name),
    }


def print_reported(recipe: Recipe | None) -> None:
    """Prints the figure that is reported of what the command ran, if there is one."""
    if recipe is None:
        return
    changes = find_changes(recipe)
    reported = next((figure for figure in recipe.reported if dict(figure.options) == changes), None)
    if reported is not None:
        click.echo(f"expected: {recipe.metric} {reported.percent:.1f} % ({recipe.reporter})")


def find_changes(recipe: Recipe) -> dict[str, Any]:
    """Returns what the command that runs has in place of a recipe's options, but for what says where and how it runs."""
    values, options = click.get_current_context().params, recipe.options
    changes = {name: value for name, value in values.items() if _is_typed(name) and value != options.get(name)}
    changes = {name: value for name, value in changes.items() if name not in _WITHOUT_INFLUENCE}
    data = values["data"].partition(":")[0]
    return changes if data == recipe.data else {**changes, "data": data}


def format_command(name: str) -> str:
    """Returns the command that runs a recipe.

    Example:
        >>> format_command("modelnet40")
        'i2p-zoo finetune --recipe modelnet40 --data modelnet40:FOLDER --out run'
    """
    recipe = RECIPES[name]
    data = "" if "data" in recipe.options else f" --data {recipe.data}:FOLDER"
    return f"i2p-zoo {recipe.command} --recipe {name}{data} --out run"


def _is_typed(name: str) -> bool:
    """Whether the command that runs got a parameter itself, and neither by default nor by its recipe."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
