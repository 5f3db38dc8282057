"""A folder of files that changes as a whole: a process that is killed at any moment leaves the old files or the new ones.

New files are written into a hidden folder beside the old ones. Renaming it to `.saved` is the moment of change: from then
on readers find the new files there, and what a killed process did not move to its place, the next writer moves.

`cache_folder` is where such folders and files stand that can be made again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

_LOCK, _STAGE, _SAVED = ".lock", ".saving-", ".saved"


def cache_folder() -> Path:
    """Returns the user's folder of what can be made again: I2P_ZOO_CACHE or, without that, `i2p-zoo` beside the Hub's cache."""
    from huggingface_hub import constants  # `i2p-zoo list` and `info` answer without it

    return Path(os.environ.get("I2P_ZOO_CACHE") or Path(constants.HF_HOME) / "i2p-zoo")


@contextlib.contextmanager
def staged_folder(
    folder: Path, is_stale: Callable[[Path], bool], is_kept: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """Gives a hidden folder to write into, whose files replace those of `folder` at the end, or none of them on an error.

    Writers of one folder wait for each other.

    Args:
        folder: created if missing.
        is_stale: whether a file of the folder is to be deleted after the change.
        is_kept: whether a file of the folder stays though a new one of its name was written; also called for what a killed
            process did not move to its place.

    Raises:
        OSError: the folder cannot be written; it is as it was, or the disk failed after the change, which then stands.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        _move_into_place(folder, is_kept)
        for path in folder.glob(f"{_STAGE}*"):  # of a writer that was killed: nobody else holds the lock
            shutil.rmtree(path, ignore_errors=True)  # another user's stays and does no harm
        stage = folder / f"{_STAGE}{secrets.token_hex(8)}"
        stage.mkdir()  # with the umask's mode: as `.saved` others read it
        try:
            yield stage
            for path in list(stage.iterdir()):
                if is_kept(folder / path.name):
                    path.unlink()
                    continue
                if (folder / path.name).is_dir():
                    raise OSError(f"{folder / path.name} is a folder; a file of that name is to be written.")
                _follow_umask(path)
            stage.rename(folder / _SAVED)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _move_into_place(folder, is_kept)
        for path in list(folder.iterdir()):
            if path.is_file() and is_stale(path):
                path.unlink()


def locate(folder: Path, name: str) -> Path:
    """Returns where a file of a folder stands now, or its place where there is none."""
    moved = folder / _SAVED / name
    return moved if moved.is_file() else folder / name


def snapshot(folder: Path) -> set[tuple[str, int, int]]:
    """Returns what differs whenever a writer changed the files of a folder, or only where they stand."""
    files = set()
    for place in (folder, folder / _SAVED):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in place.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    files.add((str(path), status.st_ino, status.st_mtime_ns))
    return files


def _move_into_place(folder: Path, is_kept: Callable[[Path], bool]) -> None:
    saved = folder / _SAVED
    if saved.is_dir():
        for path in list(saved.iterdir()):
            if is_kept(folder / path.name):
                path.unlink()
            else:
                os.replace(path, folder / path.name)
        saved.rmdir()


def _follow_umask(path: Path) -> None:
    """Gives a file the permissions of any new one; safetensors writes with mode 0600."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file beside `path` to write, which takes its place at the end, or is deleted on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
