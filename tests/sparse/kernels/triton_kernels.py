"""The package's Triton kernels, found in its source, and the processes in which Triton's interpreter checks them.

A file `interpreted_NAME.py` beside this one holds functions `check_...`, which run in a process with TRITON_INTERPRET=1;
`COMPILED` in test_triton_kernels.py says with which types each kernel is compiled.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "i2p_zoo" / "sparse" / "kernels"


def find_kernels() -> set[str]:
    """The names "module.function" of what is launched, `function[grid](...)`, of functions that Triton compiles."""
    names = set()
    for path in sorted(KERNELS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _is_compiled(node)}
        launched = {
            node.func.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)
        }
        names |= {f"{path.stem}.{name}" for name in functions & launched}
    return names


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def find_checks() -> list[str]:
    """The names "module.function" of what the interpreter's process runs."""
    names = []
    for path in sorted(HERE.glob("interpreted_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names += [f"{path.stem}.{node.name}" for node in tree.body if getattr(node, "name", "").startswith("check_")]
    return names


def run_checks() -> dict[str, Any]:
    """Runs all checks; returns what failed, by name, and the names of the kernels that ran."""
    from triton.runtime.interpreter import InterpretedFunction

    kernels, run = set(), InterpretedFunction.run

    def note(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        kernels.add(f"{kernel.fn.__module__.rsplit('.', 1)[-1]}.{kernel.fn.__name__}")
        return run(kernel, *args, **kwargs)

    InterpretedFunction.run = note
    failures = {}
    for name in find_checks():
        module, function = name.split(".")
        try:
            getattr(importlib.import_module(f"tests.sparse.kernels.{module}"), function)()
        except Exception:
            failures[name] = traceback.format_exc()
    return {"failures": failures, "kernels": sorted(kernels)}


if __name__ == "__main__":
    json.dump(run_checks(), sys.stdout)
