"""Windows' rule about files in use, on Linux: what a process has open or mapped cannot be replaced, renamed or deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest


def is_in_use(path: str | os.PathLike[str]) -> bool:
    """Whether this process has a file, or one below a folder, open or mapped into its memory."""
    place = os.path.realpath(os.fspath(path))
    used = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            used.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the listing itself
            continue
    return any(name == place or name.startswith(f"{place}{os.sep}") for name in used)


def forbid_changes_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `os.replace`, `os.rename`, `os.unlink` and `shutil.rmtree` raise PermissionError as on Windows."""

    def guard(owner: Any, name: str, paths: int) -> None:
        change = getattr(owner, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            named = [] if options.get("dir_fd") is not None else arguments[:paths]
            for path in named:
                if is_in_use(path):
                    raise PermissionError(13, "The process cannot access the file because it is being used", os.fspath(path))
            return change(*arguments, **options)

        monkeypatch.setattr(owner, name, guarded)

    guard(os, "replace", 2)
    guard(os, "rename", 2)
    guard(os, "unlink", 1)
    guard(shutil, "rmtree", 1)
