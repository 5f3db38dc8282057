"""What a certificate is measured with: a network's outputs on images in a precision, and how far apart two networks' are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from i2p_zoo.networks.timm_models import randomize_parameters_
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor
from i2p_zoo.sparse.voxelization import image_to_plane


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor, axis: str | None) -> list[Tensor]:
    """Runs a network, or a copy in eval mode and the images' dtype; returns its outputs as (B, K) tensors.

    Args:
        model: a 2D network, or with an `axis` a 3D one, which gets the images on a plane across it.
        images: (B, C, H, W).
        axis: "z", "y" or "x"; None for a 2D network.
    """
    ready = ready_to_measure(model, images.dtype)
    images = images.to(device_of(ready, images.device))
    with _FullPrecision(images.dtype == torch.float64):
        return flatten_outputs(ready(images if axis is None else image_to_plane(images, axis=axis)))


def flatten_outputs(result: Any) -> list[Tensor]:
    """Returns what a network's forward returned, a tensor or several, as dense (B, K) tensors."""
    outputs = list(result) if isinstance(result, list | tuple) else [result]
    return [_densify(output).flatten(1) for output in outputs if output is not None]


def _densify(output: Any) -> Tensor:
    """An output as the 2D network's: of voxels and tokens, spread on the image's plane."""
    if isinstance(output, SparseTensor):
        dense = output.dense()
        return dense.permute(0, 2, 3, 4, 1) if output.channels_last else dense
    return spread_on_canvas(output) if isinstance(output, TokenTensor) else output


def relative_error(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest error of an image's outputs relative to their largest value, over outputs of (B, K); NaN where any is."""
    return float(np.max([_relative_error(a, b) for a, b in zip(expected, actual, strict=True)]))


def _relative_error(expected: Tensor, actual: Tensor) -> float:
    difference = (expected - actual).abs().amax(1)
    scale = expected.abs().amax(1)
    ratio = torch.where(difference == 0, 0.0, difference / scale)
    return float(ratio.max()) if bool(torch.isfinite(ratio).all()) else float("nan")


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """The device of a network's parameters, or the default where it has none."""
    return next((p.device for p in model.parameters()), default)


def ready_to_measure(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns a network in eval mode with parameters of a dtype: itself where it is so already, else a copy."""
    if not any(m.training for m in model.modules()) and all(p.dtype == dtype for p in model.parameters()):
        return model
    return copy_with(model, {}, dtype)


def live_copy(model: nn.Module, noise: Tensor) -> nn.Module:
    """Returns a float32 copy of a 2D network with the same seeded random tensors each time, in which every branch is alive.

    Args:
        model: left as it is, like torch's generators.
        noise: (B, C, H, W) float32 on the model's device, which BatchNorm's statistics are drawn for.
    """
    twin = copy_with(model, {}, torch.float32)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        randomize_parameters_(twin, noise)
    return twin


def copy_with(model: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Copies a network in eval mode with other tensors, or its own cast, without a second copy of them in their own dtype.

    Args:
        model: left as it is.
        state: the copy's tensors by name, which it holds itself; those missing are the model's.
        dtype: of the copy's floating-point tensors that are the model's.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        value = state[name] if name in state else parameter.detach().to(dtype, copy=True)
        memo[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
    for name, buffer in model.named_buffers():
        kept = buffer.to(dtype if buffer.is_floating_point() else buffer.dtype, copy=True)
        memo[id(buffer)] = state.get(name, kept)
    return _without_caches(copy.deepcopy(model, memo))


def share_tensors(model: nn.Module) -> nn.Module:
    """Returns a network in eval mode of the same parameters and buffers, which caches nothing that was computed of them."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return _without_caches(copy.deepcopy(model, memo))


def _without_caches(model: nn.Module) -> nn.Module:
    """Passes a network through training mode, in which timm's drop what they keep for evaluation (LeViT biases)."""
    return model.train().eval()


class _FullPrecision(TorchFunctionMode):
    """Leaves float64 tensors as they are where a network's own code rounds to float32 on the way (timm's EvoNorm does).

    Args:
        wide: make float64 of integers too where it makes float32 of them, beside float64 weights.
    """

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        casts = func is Tensor.float or (func is Tensor.to and any(a is torch.float32 for a in args))
        if casts and args[0].dtype == torch.float64:
            return args[0]
        if casts and self.wide and isinstance(args[0], Tensor):
            return args[0].double()
        return func(*args, **(kwargs or {}))
