"""Notebooks as pages of the site, in its own style: Markdown, and files of their pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nbconvert import MarkdownExporter

# What a cell printed stands in a block of its own kind, which docs/style.css sets apart from code.
_TEMPLATE = """{%- extends 'markdown/index.md.j2' -%}
{%- macro block(text) %}
``` { .text .output }
{{ text | strip_ansi | trim('\\n') }}
```
{% endmacro -%}
{%- block stream %}{{ block(output.text) }}{% endblock -%}
{%- block data_text scoped %}{{ block(output.data['text/plain']) }}{% endblock -%}
{%- block error %}{{ super() }}{% endblock -%}
{%- block data_png %}
![What the cell above draws]({{ output.metadata.filenames['image/png'] | posix_path }})
{% endblock -%}
"""


_WIDE = "---\nhide: [navigation]\n---\n"  # without the list of pages at its side there is room for lines of code


def render_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Makes a page of a notebook.

    Args:
        path: of the notebook.

    Returns:
        The page, with a link to the notebook beside it below its title; and its pictures, by paths relative to the page.
    """
    resources: dict[str, Any] = {"unique_key": path.stem, "output_files_dir": path.stem}
    body, resources = MarkdownExporter(raw_template=_TEMPLATE).from_filename(str(path), resources)
    title, _, rest = body.strip().partition("\n")
    link = f'[Download this notebook]({path.name} "{path.name}"){{ download }}'
    return f"{_WIDE}{title}\n\n{link}\n{rest}\n", dict(resources["outputs"])


def link_pages(markdown: str) -> str:
    """Returns a page whose links to notebooks lead to their pages; one with a title, as for downloading, stays.

    Example:
        >>> link_pages('[a](notebooks/a.ipynb), [file](a.ipynb "a.ipynb")')
        '[a](notebooks/a.md), [file](a.ipynb "a.ipynb")'
    """
    return re.sub(r"(\]\([^()\s:]+)\.ipynb(?=[)#])", r"\1.md", markdown)
