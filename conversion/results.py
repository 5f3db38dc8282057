"""The tables of docs/results.md, from the figures in docs/results, which commands of i2p-zoo wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.ablation import format_ablation
from i2p_zoo.experiments.comparison import format_comparison
from i2p_zoo.experiments.fewshot import format_table
from i2p_zoo.experiments.speedup import format_speedup
from i2p_zoo.staging import replacing

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
_MARKED = re.compile(r"(<!-- figures: (?P<name>[\w.-]+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_FORMATS: dict[str, Callable[[Any], str]] = {
    "ablate": format_ablation,
    "compare": format_comparison,
    "fewshot": format_table,
    "speedup": lambda figures: f"```text\n{format_speedup(figures).rstrip()}\n```\n",
}


def fill_tables(page: str, folder: Path) -> str:
    """Returns a page with the tables between its marks, `<!-- figures: NAME -->` and `<!-- end -->`, made anew.

    Args:
        page: Markdown.
        folder: has the figures as COMMAND-WHAT.json, as that command of i2p-zoo writes them; NAME is COMMAND-WHAT.

    Raises:
        InvalidInputError: a file is missing, or named after no command that has figures.
    """

    def fill(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{format_figures(folder / (match['name'] + '.json'))}\n"

    return _MARKED.sub(fill, page)


def format_figures(path: Path) -> str:
    """Returns a file of figures as Markdown, formatted as the command that wrote it does; raises as `fill_tables`."""
    command = path.stem.split("-")[0]
    if command not in _FORMATS or not path.is_file():
        raise InvalidInputError(f"Expected figures at {path}, named after one of {', '.join(_FORMATS)}.")
    figures: Any = json.loads(path.read_text(encoding="utf-8"))
    return _FORMATS[command](figures)


def write_results() -> None:
    """Makes the tables of docs/results.md anew."""
    text = fill_tables(PAGE.read_text(encoding="utf-8"), PAGE.with_suffix(""))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
