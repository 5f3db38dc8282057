"""Loading what `save_pretrained` and `save_adapter` wrote, and nothing else: no pickles, no unknown keys, no infinities."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.checkpoints.weight_files import check_state, read_weights
from i2p_zoo.errors import CheckpointError
from i2p_zoo.inflation.state import deflate_state, undo_deflation_
from i2p_zoo.inflation.structure import materialize_
from i2p_zoo.staging import locate, snapshot

_ATTEMPTS = 10
_VIEWS = "views.network."  # of a pyramid classifier

T = TypeVar("T")
Build = Callable[[dict[str, Any]], Any]
"""Builds the network of a config, its weights on the meta device."""
LoadBase = Callable[[Mapping[str, Any], str], Any]
"""Loads the network that an adapter was made on, from the config's `base` and the inflation's name."""


def load_folder(
    folder: str | os.PathLike[str], build: Build, load_base: LoadBase | None = None, name: str | None = None
) -> Any:
    """Loads the network that was saved in a folder, in eval mode, unlike timm's loaders.

    Args:
        folder: of a checkpoint or an adapter.
        build: builds the network of its config.
        load_base: called for an adapter.
        name: by which `from_pretrained` finds this checkpoint again; by default the folder.

    Raises:
        CheckpointError: a file is missing, damaged, altered or foreign; the message names file, key, expected and found.
    """
    folder = Path(folder)

    def load() -> Any:
        config = read_config(locate(folder, CONFIG))
        paths = {file: locate(folder, file) for file in config["i2p"]["weights"]}
        return load_weights(config, paths, build, load_base, name or str(folder.resolve()))

    return read_steadily(folder, load)


def read_steadily(folder: Path, read: Callable[[], T]) -> T:
    """Returns what a function reads from a folder; where it fails while another process saves there, it is called again."""
    for _ in range(_ATTEMPTS):
        before = snapshot(folder)
        try:
            return read()
        except (CheckpointError, FileNotFoundError) as caught:
            error = caught
            if snapshot(folder) == before:
                raise
    raise CheckpointError(f"{folder}: was changed while it was read, {_ATTEMPTS} times in a row. Load it again.") from error


def load_weights(
    config: dict[str, Any],
    paths: Mapping[str, Path],
    build: Build,
    load_base: LoadBase | None,
    name: str,
    commit: str | None = None,
) -> Any:
    """Builds the network of a checked config and gives it its files' weights.

    Args:
        config: as `read_config` returns it.
        paths: of its weights files, by name.
        build, load_base: as `load_folder`.
        name, commit: by which the checkpoint is found again.

    Raises:
        CheckpointError: a file is damaged or foreign, or the config's network cannot be built.
    """
    first, base = next(iter(paths.values())), config["i2p"]["base"]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_weights, paths, config["i2p"]["weights"])
        try:
            model = build(config)
        except Exception as error:  # whatever timm's code raises for arguments that nobody but a stranger gives
            reading.result()  # a damaged file is the first thing to say
            raise CheckpointError(f"{first.with_name(CONFIG)}: describes a network that cannot be built: {error}") from error
        state = reading.result()
    dtype = getattr(torch, config["i2p"]["dtype"])
    expected = {key: t.to(dtype) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    if base is not None:
        if load_base is None:
            raise CheckpointError(f"{first}: it is an adapter, but a whole checkpoint is needed.")
        state = {**find_base_tensors(load_base(base, model.provenance.settings.inflation), expected), **state}
    elif config["i2p"]["compact"]:
        undo_deflation_(model, state, expected)
    check_state(first, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    materialize_(model)
    model.to(dtype)
    preprocessing = {key: tuple(v) if isinstance(v, list) else v for key, v in config["pretrained_cfg"].items()}
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), **preprocessing}
    model.provenance = model.provenance.changed(
        source={**config["i2p"]["source"], "certificate": config["i2p"]["certificate"]},
        base=base or {"name": name, "commit": commit, "weights": config["i2p"]["weights"]},
    )
    return model.requires_grad_(True).eval()


def find_base_tensors(base: Any, keys: Iterable[str]) -> dict[str, Tensor]:
    """Returns a base's tensors by the names that they have in a network made on it.

    Args:
        base: a network.
        keys: of the other's tensors: the same network's, or those of a feature extractor, whose names timm may join by "_",
            or of a U-Net or pyramid classifier, whose encoder is one; of its views the base's 2D kernels.
    """
    state: dict[str, Tensor] = base.state_dict()
    names = list(keys)
    if any(name.startswith(_VIEWS) for name in names):
        state |= {_VIEWS + key: kernel for key, kernel in deflate_state(base, state).items()}
    joined = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    tensors = {name: state.get(name, joined.get(name.removeprefix("encoder.").replace(".", "_"))) for name in names}
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


def describe_weights(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the name, the size in bytes and the sha256 of each of a checkpoint folder's weights files."""
    folder = Path(folder)

    def describe() -> list[dict[str, Any]]:
        weights = read_config(locate(folder, CONFIG))["i2p"]["weights"]
        return [{"file": file, "bytes": locate(folder, file).stat().st_size, "sha256": weights[file]} for file in weights]

    return read_steadily(folder, describe)
