"""The public surface: names and their homes, laziness, the direction of imports, and the errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import i2p_zoo
from i2p_zoo import errors

PACKAGE = Path(i2p_zoo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
HOMES = {alias.name: node.module for node in STUB if node.module for alias in node.names}
ERRORS = {  # each with the builtin that a caller may catch instead
    "InvalidInputError": ValueError,
    "CoordinateMismatchError": ValueError,
    "UnsupportedError": NotImplementedError,
    "MissingMethodError": AttributeError,
    "NotFoundError": LookupError,
    "CacheError": OSError,
    "DivergedError": ArithmeticError,
    "HubError": OSError,
    "CheckpointError": ValueError,
    "CertificateError": ArithmeticError,
    "MissingExtraError": ImportError,
    "WorkerError": RuntimeError,
}
PROMISED = """
    SparseTensor voxelize image_to_plane inflate certify create_model list_models from_pretrained save_pretrained I2PError
    finetune
""".split()


def fresh_python(code):
    """Runs code in a new interpreter where every warning is an error; returns what it prints as JSON."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def imported_modules(tree):
    """Every module that a file imports, at any depth of its code, absolute names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Names.


@pytest.mark.parametrize("name", i2p_zoo.__all__)
def test_public_name_resolves_and_is_described(name):
    value = getattr(i2p_zoo, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", value)
        return
    assert value.__doc__
    assert value.__doc__.strip().splitlines()[0].endswith((".", ":")), "a first line that is a sentence"
    if not isinstance(value, ModuleType):
        assert value.__name__ == name
        assert value.__module__.startswith("i2p_zoo."), "no name is somebody else's"


def test_all_names_are_there_once():
    assert len(set(i2p_zoo.__all__)) == len(i2p_zoo.__all__)
    assert set(PROMISED) <= set(i2p_zoo.__all__)
    assert set(dir(i2p_zoo)) == set(i2p_zoo.__all__)


@pytest.mark.parametrize("name", [name for name in i2p_zoo.__all__ if inspect.isclass(getattr(i2p_zoo, name))])
def test_public_methods_of_public_classes_are_described(name):
    kind = getattr(i2p_zoo, name)
    for attribute, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function) and not attribute.startswith("_") and function.__name__ != "<lambda>":
            assert function.__doc__, f"{name}.{attribute}"


def test_unknown_name_is_an_attribute_error_that_quotes_it():
    with pytest.raises(AttributeError, match="No i2p_zoo attribute inflat"):
        i2p_zoo.inflat  # noqa: B018


def test_names_for_type_checkers_are_those_at_run_time():
    names = [alias.name for node in STUB for alias in node.names]
    assert all(alias.asname == alias.name for node in STUB for alias in node.names), "`import X as X` re-exports a name"
    assert sorted(names) == sorted(i2p_zoo.__all__)


@pytest.mark.parametrize(("name", "module"), [item for item in HOMES.items() if item[0] != "__version__"])
def test_public_name_is_defined_where_the_table_says(name, module):
    value = getattr(i2p_zoo, name)
    assert value.__module__ == f"i2p_zoo.{module}"
    assert value is getattr(importlib.import_module(f"i2p_zoo.{module}"), name)


# Laziness.


def test_import_is_quick_and_does_not_bring_torch():
    code = (
        "import time, sys, json; start = time.perf_counter(); import i2p_zoo; took = time.perf_counter() - start; "
        "print(json.dumps([took, sorted(name.partition('.')[0] for name in sys.modules)]))"
    )
    runs = [fresh_python(code) for _ in range(5)]
    assert min(took for took, _ in runs) < 0.15
    heavy = {"torch", "torchvision", "timm", "numpy", "numba", "huggingface_hub", "safetensors", "click", "spconv"}
    assert not heavy & set(runs[0][1])


def test_listing_names_and_catching_errors_do_not_bring_torch():
    code = "import sys, json, i2p_zoo; dir(i2p_zoo), i2p_zoo.I2PError; print(json.dumps('torch' in sys.modules))"
    assert fresh_python(code) is False


# The direction of imports.


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_never_imports_the_workshop_or_the_tests(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {module.partition(".")[0] for module in imported_modules(tree)}
    assert not roots & {"conversion", "tests", "benchmarks"}
    dynamic = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in dynamic if re.fullmatch(r"conversion(\.\w+)*", text)], "nor by importlib"


# Errors.


def test_every_error_is_ours_and_the_builtin_that_fits():
    kinds = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert kinds.keys() == {"I2PError", *ERRORS}
    assert issubclass(errors.I2PError, Exception)
    for name, builtin in ERRORS.items():
        assert issubclass(kinds[name], errors.I2PError)
        assert issubclass(kinds[name], builtin)
        assert kinds[name] is getattr(i2p_zoo, name)
        assert str(kinds[name]("what went wrong")) == "what went wrong"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_raises_only_errors_of_ours(path):
    # AttributeError is what `__getattr__` must raise, OSError what a disk that cannot be written is reported by;
    # DeviceMemoryError is torch's own too, so that it stands where torch is imported.
    allowed = {"I2PError", *ERRORS, "AttributeError", "OSError", "DeviceMemoryError"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            name = node.exc.func.id
            assert name in allowed or not name.endswith(("Error", "Exception")), f"line {node.lineno} raises {name}"
