"""What mkdocs generates as it builds the site, zoo, help of commands and notebooks, and how griffe reads docstrings."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import click
import griffe
from mkdocs.structure.files import File

from conversion.notebook_pages import link_pages, render_notebook
from conversion.notebooks import list_notebooks
from conversion.recipe_tables import format_figures, format_settings
from conversion.reference import undocumented_names
from conversion.table import format_csv, format_html, list_exports, make_rows, summarize
from i2p_zoo.cli import main
from i2p_zoo.zoo.ledger import load_ledger

CSV = "zoo.csv"
_log = logging.getLogger("mkdocs.hooks.reference")


class Examples(griffe.Extension):  # type: ignore[misc]
    """Has griffe read `Example:`, as our docstrings say, as its section `Examples:`, whose doctests it shows as code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Renames the section."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


@functools.cache
def _load_rows() -> list[dict[str, Any]]:
    facts = json.loads(resources.files("i2p_zoo.zoo").joinpath("facts.json").read_text(encoding="utf-8"))
    return make_rows(load_ledger(), facts["models"])


def on_files(files: Any, config: Any) -> Any:
    """Adds the zoo's CSV and the notebooks' pages; warns of public names that no page has, which a strict build fails at."""
    for name in undocumented_names():
        _log.warning("%s is public, and no page of the reference has `::: %s`", name, name)
    files.append(File.generated(config, CSV, content=format_csv(_load_rows())))
    for path in list_notebooks():
        page, pictures = render_notebook(path)
        for name, content in {f"{path.stem}.md": page, **pictures}.items():
            files.append(File.generated(config, f"{path.parent.name}/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts generated text in place of its marks, and the pages of notebooks in place of links to them."""
    markdown = link_pages(markdown)
    for mark, make in _MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def _format_commands() -> str:
    """Returns the help of every command under its name, groups before their commands."""
    parts = []
    for command, context in _walk(main, click.Context(main, info_name="i2p-zoo", max_content_width=100)):
        parts += [f"## {context.command_path}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _walk(child, click.Context(child, info_name=name, parent=context))


_MARKS = {
    "<!-- zoo: summary -->": lambda: summarize(load_ledger()),
    "<!-- zoo: table -->": lambda: format_html(_load_rows()),
    "<!-- zoo: exports -->": lambda: list_exports(load_ledger()),
    "<!-- recipes: figures -->": format_figures,
    "<!-- recipes: settings -->": format_settings,
    "<!-- commands -->": _format_commands,
}
