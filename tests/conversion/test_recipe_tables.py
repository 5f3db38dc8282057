"""The page of recipes: every figure and number of the recipes stands there, in commands that parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conversion.finetuned import NETWORKS
from conversion.recipe_tables import format_figures, format_settings
from i2p_zoo.cli import main
from i2p_zoo.cli.training_recipes import RECIPES, find_changes
from tests.test_docs import commands_of

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "recipes.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(i2p-zoo .*?)` \| ([\d.]+) \| (.*?) \| (.*) \|$", format_figures(), re.MULTILINE)


def context_of(command):
    """What click reads of a line."""
    words, group = shlex.split(command)[1:], main
    while words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]
    return group.make_context("x", [*words, "--out", "run"])


def test_every_figure_stands_by_the_command_that_it_is_of():
    rows = [row for row in ROWS if not row[3].startswith("measured here")]
    assert len(rows) == sum(len(recipe.reported) for recipe in RECIPES.values())
    for command, percent, metric, reporter in rows:
        with context_of(command) as context:
            recipe = RECIPES[context.params["recipe"]]
            changes = find_changes(recipe)
        (reported,) = [figure for figure in recipe.reported if figure.options == changes]
        assert (percent, metric, reporter) == (f"{reported.percent:.1f}", recipe.metric, recipe.reporter)


def test_what_was_measured_here_is_told_apart():
    measured = [row[3] for row in ROWS if row[3].startswith("measured here")]
    assert [text.split("`")[1] for text in measured] == list(NETWORKS)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_are_listed_with_their_sources_and_parse(name):
    section = format_settings().split(f"### {name}\n")[1].split("\n### ")[0]
    recipe = RECIPES[name]
    groups = re.findall(r"^- `(.*)`: (.*)\.$", section, re.MULTILINE)
    assert [source for _, source in groups] == list(recipe.settings)
    data = "" if "data" in recipe.options else f" --data {recipe.data}:FOLDER"
    with context_of(f"i2p-zoo {recipe.command} {' '.join(options for options, _ in groups)}{data}") as context:
        assert {key: context.params[key] for key in recipe.options} == recipe.options
    assert recipe.differs in section


def test_the_page_has_the_command_of_each_recipe():
    named = {arguments[arguments.index("--recipe") + 1] for _, *arguments in commands_of(PAGE)}
    assert named == set(RECIPES)
    for mark in ("<!-- recipes: figures -->", "<!-- recipes: settings -->"):
        assert mark in PAGE
