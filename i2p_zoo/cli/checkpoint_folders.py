"""Networks as commands load them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.names import is_only_path
from i2p_zoo.wording import near_paths, suggest


def check_place(name: str | os.PathLike[str]) -> None:
    """Makes sure that a name is no file and no folder beside a checkpoint's folder.

    Raises:
        InvalidInputError: it is empty, or a file, and a network is loaded from a folder.
        NotFoundError: there is no such folder, or it is a run's, whose checkpoint is one level below.
    """
    from i2p_zoo.checkpoints.folder_files import CONFIG
    from i2p_zoo.staging import locate

    if not os.fspath(name):
        raise InvalidInputError("The name of the network is empty; expected such as i2p-resnet50, or a checkpoint's folder.")
    path, text = Path(name), os.fspath(name)
    if not path.exists() and is_only_path(text):
        raise NotFoundError(f"{text}: no such folder.{suggest(near_paths(path, folders=True))}")
    if path.is_file() and (len(path.parts) > 1 or path.suffix in (".safetensors", ".json", ".pth", ".pt", ".bin")):
        if locate(path.parent, CONFIG).is_file():
            raise InvalidInputError(f"{name} is a file of a checkpoint; give its folder, {path.parent}.")
        raise InvalidInputError(
            f"{name} is a file, and a network is loaded from a folder: convert weights of a timm network with "
            f"`i2p-zoo convert NAME --weights {name}`, and give the folder that it writes."
        )
    if path.is_dir() and not locate(path, CONFIG).is_file():
        below = [path / subfolder for subfolder in ("model", "adapter") if locate(path / subfolder, CONFIG).is_file()]
        if below:
            raise NotFoundError(f"{name} holds no checkpoint itself (it has no {CONFIG}); did you mean {below[0]}?")


def load_network(name: str, device: str) -> Any:
    """Loads a network onto a device; raises as `check_place`, `find_device` and `i2p_zoo.from_pretrained`."""
    from i2p_zoo import from_pretrained
    from i2p_zoo.finetune.devices import find_device

    check_place(name)
    target = find_device(device)  # told before anything is loaded
    return from_pretrained(name).to(target)
