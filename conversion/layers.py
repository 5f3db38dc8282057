"""The picture of the package's layers, drawn from the contract in pyproject.toml and from the imports."""

from __future__ import annotations

import ast
import textwrap
from itertools import permutations
from pathlib import Path

import grimp

import i2p_zoo
from conversion.recipes import read_toml
from i2p_zoo._extras import require

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "layers.png"
_GROUND_ROWS = 3  # small modules that every row may use; their arrows are not drawn


def read_rows() -> list[list[str]]:
    """Returns the names in each row of the contract, the top row first."""
    rows = read_toml(ROOT / "pyproject.toml")["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip() for name in row.split("|")] for row in rows]


def find_arrows(names: list[str]) -> list[tuple[str, str]]:
    """Returns which of these parts of the package import which, without arrows that go by another part as well."""
    graph = grimp.build_graph("i2p_zoo")
    arrows = {
        (a, b)
        for a, b in permutations(names, 2)
        if graph.direct_import_exists(importer=f"i2p_zoo.{a}", imported=f"i2p_zoo.{b}", as_packages=True)
    }
    return sorted((a, b) for a, b in arrows if not any((a, c) in arrows and (c, b) in arrows for c in names))


def describe(name: str) -> str:
    """Returns the first sentence of a part's docstring."""
    place = Path(i2p_zoo.__file__).parent / name
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


def draw_layers(path: Path = PICTURE) -> None:
    """Draws each row of the contract, what stands in it, and who imports whom.

    Args:
        path: of the PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the picture cannot be written.
    """
    rows = read_rows()
    figure = require("matplotlib.figure", "finetune").Figure(figsize=(12.0, 0.6 * len(rows)), layout="tight")
    axis = figure.subplots()
    places: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        for column, name in enumerate(row):
            places[name] = (column - (len(row) - 1) / 2, -number)
            style = {"boxstyle": "round,pad=0.35", "facecolor": "#eef3fb", "edgecolor": "#4267ac"}
            axis.text(*places[name], name, ha="center", va="center", fontsize=10, bbox=style)
        if len(row) == 1:
            axis.text(2.3, -number, textwrap.fill(describe(row[0]), 95), va="center", fontsize=8.5)
    arrow = {"arrowstyle": "-|>", "color": "#4267ac", "alpha": 0.6, "shrinkA": 11, "shrinkB": 11}
    for a, b in find_arrows([name for row in rows[:-_GROUND_ROWS] for name in row]):
        arrow["connectionstyle"] = f"arc3,rad={0 if places[a][1] - places[b][1] == 1 else 0.3}"
        axis.annotate("", places[b], places[a], arrowprops=arrow, zorder=0)
    axis.set(xlim=(-2.2, 8.2), ylim=(-len(rows) + 0.5, 0.5))
    axis.axis("off")
    figure.savefig(path, dpi=90)
