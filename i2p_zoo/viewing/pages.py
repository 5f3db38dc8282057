"""A cloud as one HTML file, which needs no network."""

from __future__ import annotations

import html
import os
import string
from pathlib import Path

from i2p_zoo._extras import require
from i2p_zoo._version import __version__
from i2p_zoo.staging import replacing
from i2p_zoo.viewing.cloud_views import CloudView
from i2p_zoo.viewing.figures import draw_classes, draw_cloud

# The colours of text are the page's, light or dark, also in plotly's figures, which set their own.
_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.4; }
body { margin: 0 auto; max-width: 84rem; padding: 0.75rem 1rem; background: Canvas; color: CanvasText; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0.25rem 0 0.5rem; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: minmax(0, 1fr); align-items: start; }
@media (min-width: 52rem) { main.two { grid-template-columns: minmax(0, 5fr) minmax(0, 2fr); } }
svg text { fill: CanvasText !important; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
<main class="$columns">
$figures
</main>
</body>
</html>
""")
CONFIG = {"displaylogo": False, "responsive": True}


def write_page(path: str | os.PathLike[str], view: CloudView) -> None:
    """Writes a cloud with its voxels and classes as one HTML file, with plotly's code inside.

    Args:
        path: of the file, whose place it takes as a whole.
        view: as `view_file` and `view_cloud` return it.

    Raises:
        MissingExtraError: plotly is not installed.
        OSError: the file cannot be written.
    """
    to_html = require("plotly.io", extra="view").to_html
    figures = [draw_cloud(view)]
    if view.classes:
        figures.append(draw_classes(view.classes, view.meaning))
    parts = [
        f"<div>{to_html(figure, CONFIG, include_plotlyjs=number == 0, full_html=False)}</div>"
        for number, figure in enumerate(figures)
    ]
    text = _PAGE.substitute(
        title=html.escape(view.title),
        summary=html.escape(f"{view.summary()} Drawn by i2p-zoo {__version__}."),
        columns="two" if len(figures) > 1 else "one",
        figures="\n".join(parts),
    )
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
