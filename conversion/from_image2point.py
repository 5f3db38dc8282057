"""The original Image2Point checkpoints: torchsparse 1.2 classification networks, mapped to sparse timm ResNets.

The networks are those of `i2p_zoo.create_model(..., preset="image2point")`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from i2p_zoo import create_model
from i2p_zoo.errors import CheckpointError
from i2p_zoo.zoo.execution_order import load_weights_

ARCHITECTURES = {
    (False, (2, 2, 2, 2)): "resnet18",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""timm's architecture by (has bottlenecks, blocks of each stage). The original's "34" has blocks that no ResNet has."""

_BLOCK = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}  # layers of a block's `net`, by number
_NAMES = {
    r"stem\.0\.kernel": r"conv1.weight",
    r"stem\.1\.(\w+)": r"bn1.\1",
    **{rf"stage(\d)\.(\d+)\.net\.{number}\.(\w+)": rf"layer\1.\2.{layer}.\3" for number, layer in _BLOCK.items()},
    r"stage(\d)\.(\d+)\.downsample\.(\d)\.(\w+)": r"layer\1.\2.downsample.\3.\4",
    r"classifier\.0\.(\w+)": r"fc.\1",
    r"classifier\.1\.(\w+)": r"fc.norm.\1",
}


def convert_kernel(kernel: Tensor) -> Tensor:
    """Lays a torchsparse 1.2 kernel out as KRSC.

    Args:
        kernel: (taps, C_in, C_out), taps with x fastest for an odd edge and z fastest for an even one
            (torchsparse 1.2, utils/kernel_region.py); or (C_in, C_out) for a single tap.

    Returns:
        (C_out, kz, ky, kx, C_in).

    Raises:
        CheckpointError: the number of taps is no cube.
    """
    kernel = kernel if kernel.ndim == 3 else kernel[None]
    edge = round(len(kernel) ** (1 / 3))
    if kernel.ndim != 3 or edge**3 != len(kernel):
        raise CheckpointError(f"A torchsparse kernel has shape (edge ** 3, in, out); got {tuple(kernel.shape)}.")
    taps: Tensor = kernel.unflatten(0, (edge, edge, edge))
    taps = taps if edge % 2 else taps.permute(2, 1, 0, 3, 4)
    return taps.permute(4, 0, 1, 2, 3).contiguous()


def convert_key(key: str) -> str:
    """Returns timm's name of an original tensor; raises CheckpointError for an unknown one."""
    for pattern, name in _NAMES.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name).replace("kernel", "weight")
    raise CheckpointError(f"{key!r} is no tensor of an Image2Point classification network.")


def load_image2point(state: dict[str, Tensor]) -> Any:
    """Builds the sparse network of an original classification checkpoint.

    Args:
        state: the state dict, without the trainer's wrapping.

    Returns:
        The preset's network in eval mode, for voxels with the channels that the original's stem reads.

    Raises:
        CheckpointError: tensors that are missing, unknown or of other shapes, or an architecture that timm lacks.
    """
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    ours = {convert_key(key): convert_kernel(t) if key.endswith("kernel") else t.clone() for key, t in state.items()}
    blocks = [{m[2] for key in ours if (m := re.match(r"layer(\d)\.(\d+)\.", key)) and int(m[1]) == n} for n in (1, 2, 3, 4)]
    structure = (any("conv3" in key for key in ours), tuple(map(len, blocks)))
    if structure not in ARCHITECTURES or "fc.weight" not in ours or "conv1.weight" not in ours:
        raise CheckpointError(f"No ResNet has (bottlenecks, blocks) {structure}; known: {', '.join(map(str, ARCHITECTURES))}.")
    classes, channels = len(ours["fc.weight"]), ours["conv1.weight"].shape[-1]
    model = create_model(ARCHITECTURES[structure], num_classes=classes, in_chans=channels, preset="image2point")
    model.to(ours["fc.weight"].dtype)
    load_weights_(model, ours, ARCHITECTURES[structure])
    return model.eval()
