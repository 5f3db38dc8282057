"""The layers of the package: no circle among its modules, each package imports alone, and what the top level holds."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import i2p_zoo

PACKAGE = Path(i2p_zoo.__file__).parent
FILES = {
    ".".join(["i2p_zoo", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path):
    """The package's modules that a file imports at its top level; the lazy public face is none."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in FILES or node.module in FILES:
                    yield name if name in FILES else node.module


def test_no_module_imports_itself_through_others():
    graph = {name: set(imported(path)) for name, path in FILES.items()}
    assert sum(map(len, graph.values())) > 300
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
