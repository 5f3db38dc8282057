"""The packages that convolve on CUDA: whether they are installed, and whether they work there."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any

from i2p_zoo._extras import install_command, require
from i2p_zoo.errors import UnsupportedError

EXTRAS = {"spconv_triton": "triton", "spconv": "spconv"}
_passed_over: set[str] = set()  # packages that are installed and cannot be used, each of which was told


def require_package(name: str) -> Any:
    """Returns a package, its operations loaded.

    Raises:
        MissingExtraError: it is not installed.
        UnsupportedError: it is installed and cannot be used on CUDA.
    """
    if importlib.util.find_spec(name) is None:
        require(name, EXTRAS[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what the package calls, which is no fault
            package = importlib.import_module(name)
            importlib.import_module(f"{name}.pytorch.functional")
            fault = _find_fault(package)
    except Exception as error:  # whatever a package raises that was built for another torch or CUDA
        raise UnsupportedError(f"{name} is installed and cannot be imported: {type(error).__name__}: {error}") from error
    if fault:
        raise UnsupportedError(f"{name} is installed and cannot be used: {fault}")
    return package


def _find_fault(package: Any) -> str:
    """What keeps a loaded package from convolving on CUDA, or ""."""
    if package.__name__ == "spconv" and importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD:
        return f"it is the build for CPUs only. Install spconv-cu12x in its place, or `{install_command('triton')}`."
    if package.__name__ == "spconv_triton":
        operations = importlib.import_module("spconv_triton.pytorch._impl.gemm")
        names = ("conv_forward", "conv_backward_input", "conv_backward_weight")
        missing = [name for name in names if not hasattr(operations, name)]
        return f"it has no {', '.join(missing)}; version 1.0 has." if missing else ""
    return ""


def find_package(name: str) -> Any:
    """Returns a package, or None where it is not installed or was passed over, as is one that cannot be imported."""
    return None if name in _passed_over else _load_package(name)


@functools.cache
def _load_package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return require_package(name)
    except UnsupportedError as error:
        pass_over(name, error)
        return None


def pass_over(name: str, error: UnsupportedError) -> None:
    """Has `find_package` find a package no more, and says why in one warning a process."""
    if name not in _passed_over:
        _passed_over.add(name)
        warnings.warn(f"{error} Convolutions on CUDA run without it.", stacklevel=1)
