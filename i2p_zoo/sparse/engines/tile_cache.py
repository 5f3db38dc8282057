"""Tile shapes that `i2p_zoo.tune` found, in memory and in one file of the user's cache, by machine and layer shape."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import cache_folder, replacing

Shape = dict[str, int]
Shapes = dict[str, Shape]
_FORMAT = "i2p-zoo tile shapes, 1"


def cache_path() -> Path:
    """Returns the file, `tiles.json` in the cache's folder."""
    return cache_folder() / "tiles.json"


def describe_machine(index: int) -> str:
    """Returns what tile shapes depend on beside the layer: a device's name and the versions of what compiles for it.

    For the CPU, which is -1 among devices, it is empty.
    """
    if index < 0:
        return ""
    packages = {"torch": str(torch.__version__)}
    for name in ("triton", "spconv-triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return ", ".join([torch.cuda.get_device_name(index), *(f"{name} {version}" for name, version in packages.items())])


@functools.cache
def load_shapes(index: int) -> Shapes:
    """Returns the shapes that are known for a device, by layer; read once a process.

    A file that cannot be read, is damaged or another program's is passed over with a warning.

    Args:
        index: the device's number, -1 for the CPU, which has none.
    """
    machine, path = describe_machine(index), cache_path()
    if not machine:
        return {}
    try:
        return _read(path).get(machine, {})
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{path} is passed over: {error}. Tile shapes go by the layers' channels until `i2p_zoo.tune` writes it anew.",
            stacklevel=1,
        )
        return {}


def keep_shapes(index: int, shapes: Shapes) -> None:
    """Adds a device's shapes to those of this process and of the file; where that cannot be written, it warns.

    Processes that write at once wait for one another, and a file that is no such one is replaced.
    """
    load_shapes(index).update(shapes)
    path = cache_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=10), replacing(path) as temporary:
            machines: dict[str, Shapes] = {}
            with contextlib.suppress(ValueError):
                machines = _read(path)
            machines[describe_machine(index)] = {**machines.get(describe_machine(index), {}), **shapes}
            temporary.write_text(
                json.dumps({"format": _FORMAT, "machines": machines}, indent=1) + "\n", encoding="utf-8", newline="\n"
            )
    except (OSError, NotImplementedError) as error:  # a file system without locks raises the latter
        warnings.warn(
            f"{path} cannot be written ({error}): the tile shapes hold in this process alone. Set I2P_ZOO_CACHE to a folder "
            "that can be written.",
            stacklevel=1,
        )


def _read(path: Path) -> dict[str, Shapes]:
    """The file's shapes by machine and layer; raises InvalidInputError where it is no such file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:  # no JSON, or no text
        raise InvalidInputError(f"it is damaged ({error})") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not _maps_to(content.get("machines"), _are_shapes):
        raise InvalidInputError(f"it is no file of {_FORMAT!r}")
    machines: dict[str, Shapes] = content["machines"]
    return machines


def _maps_to(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(check, value.values()))


def _are_shapes(value: Any) -> bool:
    return _maps_to(value, lambda shape: _maps_to(shape, lambda size: type(size) is int))
