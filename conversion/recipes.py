"""The zoo's recipes, recipes.toml: which weights of timm become which network."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.card import is_noncommercial
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.names import PREFIX
from i2p_zoo.wording import join_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

RECIPES = Path(__file__).with_name("recipes.toml")

_TYPES: dict[str, type] = {"tag": str, "license": str, "source": str, "inflation": str, "noncommercial": bool}


@dataclass(frozen=True)
class Recipe:
    """A network of the zoo and the 2D weights that it is made from.

    Attributes:
        name: `i2p-<timm architecture>`, with `.<timm tag>` where the tag is not timm's default.
        architecture: timm's name.
        tag: timm's tag of the weights.
        source: their repository on the Hub.
        license: as timm states it; "unknown" where it states none.
        noncommercial: whether that licence forbids commercial use.
        inflation: "center", "average" or "copy".
    """

    name: str
    architecture: str
    tag: str
    source: str
    license: str
    noncommercial: bool
    inflation: str


def load_recipes(path: Path = RECIPES) -> list[Recipe]:
    """Reads the recipes in the order of the file.

    Raises:
        InvalidInputError: the file cannot be read, a key is unknown, missing or of a wrong type, a name, an inflation or a
            non-commercial flag does not fit, or two recipes have the same source.
    """
    recipes = [_read_recipe(f"{path}: {name}", name, table) for name, table in read_toml(path).items()]
    names: dict[str, str] = {}
    for recipe in recipes:
        if (other := names.setdefault(recipe.source, recipe.name)) != recipe.name:
            raise InvalidInputError(
                f"{path}: {recipe.name}: `source` is {recipe.source!r}; expected one that no other recipe has, and {other} has "
                "it. Remove one of the two."
            )
    return recipes


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file; raises InvalidInputError where it cannot be read."""
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: no readable TOML file: {error}. Correct it there.") from error
    return tables


def _read_recipe(place: str, name: str, table: Any) -> Recipe:
    if not isinstance(table, dict):
        raise InvalidInputError(f"{place} is {table!r}; expected a table. Write it as the other recipes.")
    if unknown := sorted(table.keys() - _TYPES.keys()):
        raise InvalidInputError(
            f"{place}: unknown keys {join_words(unknown)}; expected {join_words(_TYPES)}. Remove or rename them."
        )
    if missing := sorted(_TYPES.keys() - table.keys() - {"noncommercial"}):
        raise InvalidInputError(f"{place}: missing keys {join_words(missing)}; found {join_words(sorted(table))}. Add them.")
    for key, value in table.items():
        if type(value) is not _TYPES[key] or value == "":
            expected = "true or false" if _TYPES[key] is bool else "a string that is not empty"
            raise InvalidInputError(f"{place}: `{key}` is {value!r}; expected {expected}. Write it so.")
    architecture, dot, tag = name.removeprefix(PREFIX).partition(".")
    if not name.startswith(PREFIX) or not architecture or (dot and tag != table["tag"]):
        raise InvalidInputError(
            f"{place}: the name is {name!r}; expected '{PREFIX}<timm architecture>', alone or with '.{table['tag']}'. "
            "Rename it."
        )
    if table["inflation"] not in INFLATIONS:
        raise InvalidInputError(f"{place}: `inflation` is {table['inflation']!r}; expected one of {INFLATIONS}. Choose one.")
    noncommercial, by_licence = table.get("noncommercial", False), is_noncommercial(table["license"])
    if noncommercial != by_licence:
        raise InvalidInputError(
            f"{place}: `noncommercial` is {noncommercial}; expected {by_licence} for the licence {table['license']!r}. Correct "
            "the one that is wrong."
        )
    return Recipe(name=name, architecture=architecture, **{**table, "noncommercial": noncommercial})


def shard(recipes: Sequence[Recipe], part: str) -> list[Recipe]:
    """Returns one machine's share of recipes, dealt round robin.

    Args:
        recipes: all of them.
        part: "i/n", the i-th of n machines, from 1.

    Raises:
        InvalidInputError: `part` is not of that form.

    Example:
        >>> len(shard(load_recipes()[:10], "2/4"))
        3
    """
    match = re.fullmatch("([1-9][0-9]*)/([1-9][0-9]*)", part)
    if match is None or int(match[1]) > int(match[2]):
        raise InvalidInputError(f"The part is {part!r}; expected 'i/n' with 1 <= i <= n. Give such as '2/8'.")
    number, machines = map(int, match.groups())
    return list(recipes[number - 1 :: machines])
