"""The layers of the package: no circle among its modules, a contract that holds and that can break, and its sizes."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import i2p_zoo

PACKAGE = Path(i2p_zoo.__file__).parent
ROOT = PACKAGE.parent
FILES = {
    ".".join(["i2p_zoo", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = sorted(name for name, path in FILES.items() if path.name == "__init__.py" and name != "i2p_zoo")
TOP = sorted(path.stem for path in PACKAGE.glob("*.py"))
LONGEST = 400
VAGUE = {"found", "how", "told", "own", "kind", "kinds", "wanted", "given"}


def walk(node):
    """The nodes of a syntax tree, functions and methods included, without what type checkers alone read."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from walk(child)


def imported(name):
    """The package's modules that a module imports, at its top or inside its functions."""
    for node in walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            places = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (place if place in FILES else node.module for place in places if node.module in FILES)


def test_texts_are_the_same_bytes_on_every_system():
    """Unless their encoding and the end of a line are named, Windows has cp1252 and two characters."""
    for name, path in FILES.items():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for call in (node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            modes = [part.value for part in call.args if isinstance(part, ast.Constant)]
            in_bytes = any("b" in str(mode) for mode in modes) or (call.args and not modes)  # the latter is a library's `open`
            is_text = call.func.attr in ("read_text", "write_text") or (call.func.attr == "open" and not in_bytes)
            named = {"encoding", "newline"} if call.func.attr == "write_text" else {"encoding"}
            assert not is_text or named <= {word.arg for word in call.keywords}, f"{name}: {ast.unparse(call)}"


def test_files_of_data_are_sorted_alike_on_every_system():
    """`sorted` takes B for b on Windows: `sort_paths` does not."""
    for name in (name for name in FILES if name.startswith(("i2p_zoo.data", "i2p_zoo.viewing"))):
        assert not re.findall(r"sorted\(.*(?:iterdir|glob)\(", FILES[name].read_text(encoding="utf-8")), name


def test_no_module_imports_itself_through_others():
    graph = {name: set(imported(name)) - {name} for name in FILES}
    assert sum(map(len, graph.values())) > 500
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_imports_stand_at_the_top_but_for_commands():
    """Commands import what they run when they run it, so that `--help` loads no torch."""
    for name, path in FILES.items():
        if name.startswith(("i2p_zoo.cli", "i2p_zoo.__main__")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom | ast.Import)]
                ours = [node for node in inner if "i2p_zoo" in ast.unparse(node)]
                assert not ours, f"{name}.{function.name}: {ast.unparse(ours[0])}"


def lint(folder):
    """Runs the contracts of pyproject.toml on the package in a folder."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_contract_holds_and_an_import_upward_breaks_it(tmp_path):
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "i2p_zoo", ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    lower = tmp_path / "i2p_zoo" / "inflation" / "report.py"
    lower.write_text(lower.read_text() + "\n\ndef lazily():\n    from i2p_zoo.zoo import ledger\n    return ledger\n")
    broken = lint(tmp_path)
    assert broken.returncode == 1
    assert "i2p_zoo.inflation is not allowed to import i2p_zoo.zoo" in broken.stdout


def test_each_package_imports_alone():
    """A process that has loaded the libraries, but nothing of ours, forks for each package."""
    code = """
import importlib, json, os, sys
import timm, torch, torch.distributed, huggingface_hub, numba, safetensors.torch, click, tqdm, filelock
assert not [name for name in sys.modules if name.startswith("i2p_zoo")]
codes = {}
for name in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""
    done = subprocess.run([sys.executable, "-c", code, json.dumps(PACKAGES)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(PACKAGES, 0), done.stderr


def test_top_level_is_small_and_files_are_short():
    assert len(TOP) <= 12, TOP
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_a_modules_name_stands_once():
    names = Counter(path.stem for path in FILES.values() if not path.stem.startswith("__"))
    assert not {name for name, count in names.items() if count > 1}


def test_no_variable_has_a_name_that_says_nothing():
    for name, path in FILES.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        used = {node.id for node in nodes if isinstance(node, ast.Name)} | {n.arg for n in nodes if isinstance(n, ast.arg)}
        assert not used & VAGUE, name
