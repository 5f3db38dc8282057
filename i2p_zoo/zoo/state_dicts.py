"""State dicts in users' files: where in a file they are, whose names they have, and how they differ from a network's.

No code of a file is run: pickles are read by torch's unpickler of tensors alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from i2p_zoo.checkpoints.weight_files import is_finite
from i2p_zoo.errors import CheckpointError, NotFoundError
from i2p_zoo.wording import near_paths, suggest

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_ENTRIES = (
    *_AVERAGED,
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
"""Under which a training checkpoint has its state dict; averaged weights come first, as timm's loaders take them."""
_BOOKKEEPING = frozenset({"n_averaged"})  # of torch.optim.swa_utils.AveragedModel
_STYLES = {
    "Hugging Face transformers": r"(^|\.)(embedder\.embedder|embeddings|encoder\.stages)\.",
    "the package efficientnet_pytorch": r"(^|\.)_(conv_stem|blocks|fc)\.",
    "the authors' ConvNeXt": r"(^|\.)downsample_layers\.\d",
    "detectron2": r"(^|\.)(bottom_up|res[2-5]\.\d+\.shortcut)\.",
    "torchvision": r"(^|\.)(features\.\d+|trunk_output\.block\d|AuxLogits)\.",
    "Ultralytics": r"^model\.\d+\.(conv|cv\d|m)\.",
    "fastai": r"^[01]\.\d+\.",
}
"""By whose names of layers a file can be told, as regular expressions."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the state dict of a .safetensors, .pth, .pt, .ckpt or .bin file.

    It may be the file itself, or stand in it under a name that training scripts use; averaged weights are taken where there
    are some.

    Raises:
        NotFoundError: no such file.
        CheckpointError: it is damaged, holds no state dict or more than tensors, or a value is not finite.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file.{suggest(near_paths(path))}")
    try:
        is_safetensors = path.suffix == ".safetensors"
        content = load_file(str(path)) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the readers of damaged files raise anything
        if "weights_only" in str(error) and _is_pickled(path):
            raise CheckpointError(
                f"{path}: cannot be read: it pickles a whole network, or other objects, and no code of a file is run. Save "
                "`model.state_dict()` in its place, or of a training checkpoint its entry 'state_dict' alone."
            ) from error
        raise CheckpointError(
            f"{path}: cannot be read: no checkpoint, or a damaged one ({type(error).__name__}). Expected a state dict in a "
            ".safetensors, .pth, .pt, .ckpt or .bin file."
        ) from error
    state = _find_state(content)
    if state is None:
        held = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path}: holds more than a state dict of tensors or none: {held}. Save `model.state_dict()`.")
    spoiled = [key for key, tensor in state.items() if not is_finite(tensor)]
    if spoiled:
        raise CheckpointError(
            f"{path}: NaN or infinite values in {len(spoiled)} of {len(state)} tensors, the first {spoiled[0]}: the network "
            "diverged before it was saved. Give an earlier checkpoint."
        )
    return state


def _find_state(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    for entry in _ENTRIES:
        if isinstance(content.get(entry), Mapping):
            return _find_state(content[entry])
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return None
    return {key: tensor for key, tensor in content.items() if key not in _BOOKKEEPING}


def _is_pickled(path: Path) -> bool:
    """Whether torch wrote the file, a zip or, in older versions, a bare pickle."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"


def find_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> str:
    """Returns what stands before a network's own names in a state dict, such as "model." or "module.backbone.".

    Args:
        state: of the file.
        expected: names of the network's tensors.

    Returns:
        The prefix under which the most of these names stand; "" where there is none.

    Raises:
        CheckpointError: as many stand under several prefixes, none of which is of averaged weights.
    """
    names = set(expected)
    counts: dict[str, int] = {}
    for key in state:
        parts = key.split(".")
        for number in range(len(parts)):
            if ".".join(parts[number:]) in names:
                prefix = "".join(f"{part}." for part in parts[:number])
                counts[prefix] = counts.get(prefix, 0) + 1
    highest = max(counts.values(), default=0)
    most = [prefix for prefix, count in counts.items() if count == highest]
    if len(most) == 1:
        return most[0]
    if "" in most or highest * 2 < len(names):  # names of another network's
        return ""
    averaged = [prefix for prefix in most if re.search(r"(^|[._])(ema|averaged|teacher|momentum)", prefix)]
    if len(averaged) != 1:
        listed = ", ".join(map(repr, most))
        raise CheckpointError(f"It holds several networks, under {listed}: save the one that is meant by itself.")
    return averaged[0]


def describe_style(state: Mapping[str, Tensor]) -> str:
    """Says whose names of layers a state dict has, as far as they tell it, or ""."""
    if any(tensor.ndim == 5 for tensor in state.values()):
        return "It is of a 3D network: its convolutions have three axes. 2D weights are converted"
    counts = {style: sum(bool(re.search(pattern, key)) for key in state) for style, pattern in _STYLES.items()}
    best = max(counts, key=lambda style: counts[style])
    return f"Its names look like those of {best}" if counts[best] * 4 > len(state) else ""


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
