"""The public names that the site's reference must have, and those that it lacks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_PACKAGE = ROOT / "i2p_zoo"
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def public_names() -> set[str]:
    """Returns the full names of all that is public: the package's names, and those of the modules among them."""
    stub = ast.parse((_PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
    names = set()
    for node in stub:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if node.module is None:  # a module
                    names |= {f"i2p_zoo.{alias.name}.{name}" for name in _names_of_module(alias.name)}
                elif alias.name != "__version__":
                    names.add(f"i2p_zoo.{alias.name}")
    return names


def _names_of_module(name: str) -> set[str]:
    """Returns what a module lists in `__all__`, or the functions and classes that it defines."""
    path = _PACKAGE / name / "__init__.py" if (_PACKAGE / name).is_dir() else _PACKAGE / f"{name}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    listed: list[str] = []
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            listed += ast.literal_eval(node.value)  # type: ignore[attr-defined]
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return set(listed) or {name for name in defined if not name.startswith("_")}


def documented_names(docs: Path = DOCS) -> set[str]:
    """Returns the full names that the pages take from docstrings."""
    return {name for path in docs.rglob("*.md") for name in _DIRECTIVE.findall(path.read_text(encoding="utf-8"))}


def undocumented_names(docs: Path = DOCS) -> list[str]:
    """Returns the public names that no page has, sorted."""
    return sorted(public_names() - documented_names(docs))
