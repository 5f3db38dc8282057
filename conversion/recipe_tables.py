"""The recipes as the site shows them: what each should reach, and where each of its numbers comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from conversion.finetuned import load_finetuned
from i2p_zoo.cli import main
from i2p_zoo.cli.training_recipes import RECIPES, Recipe, format_command


def format_figures() -> str:
    """Returns a table of the commands, what they should reach and who says so, as Markdown; ours are told as measured."""
    lines = ["| command | expected | of | reported by |", "|---|--:|---|---|", *_measured_rows()]
    for name, recipe in RECIPES.items():
        for reported in recipe.reported:
            command = " ".join([format_command(name).removesuffix(" --out run"), *type_options(recipe, reported.options)])
            lines.append(f"| `{command}` | {reported.percent:.1f} | {recipe.metric} | {recipe.reporter} |")
    return "\n".join(lines)


def _measured_rows() -> Iterator[str]:
    """A row for each network that the zoo has of a recipe."""
    for network, record in load_finetuned().items():
        run = record["run"]
        command = run["recipe"]["command"].removesuffix(" --out run")
        percent, seed = 100 * run["test"]["top1"], run["options"]["seed"]
        yield f"| `{command}` | {percent:.1f} | top-1 accuracy | measured here, seed {seed}: `{network}` |"


def format_settings() -> str:
    """Returns each recipe's options under where they come from, and what the reporter did otherwise, as Markdown."""
    parts = []
    for name, recipe in RECIPES.items():
        parts += [f"### {name}", "", f"{recipe.title}. {recipe.differs}".rstrip(), ""]
        for source, options in recipe.settings.items():
            parts.append(f"- `{' '.join(type_options(recipe, options))}`: {source}.")
        parts.append("")
    return "\n".join(parts)


def type_options(recipe: Recipe, options: Mapping[str, Any]) -> list[str]:
    """Returns options of a recipe's command as they are typed.

    Example:
        >>> type_options(RECIPES["modelnet40"], {"learning_rate": 0.1, "scratch": True})
        ['--lr', '0.1', '--scratch']
    """
    command: Any = main
    for word in recipe.command.split():
        command = command.get_command(click.Context(command), word)
    names = {parameter.name: parameter.opts[0] for parameter in command.params}
    return [part for name, value in options.items() for part in (names[name], *([] if value is True else [f"{value}"]))]
