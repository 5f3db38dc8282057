"""Which tensors of a 2D network its outputs depend on, on some images and with its own weights: one backward pass tells."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from i2p_zoo.zoo.measurement import device_of, flatten_outputs, ready_to_measure, share_tensors


def measure_sensitivity(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Measures how far each element of each tensor moves a network's outputs, by the gradient of a random projection of them.

    Args:
        model: a 2D network, run in eval mode and the images' dtype; untouched.
        images: (B, C, H, W); one after the other, so that memory is that of one.

    Returns:
        By name, for each floating-point parameter and buffer of the state dict, a tensor of its shape: the gradient of the
        projection, times the root mean square of the tensor (1 where it is all zeros). Its norm is about how far noise of the
        tensor's own size in its place moves the outputs, relative to the largest. What cannot matter has 0.
    """
    ready = share_tensors(ready_to_measure(model, images.dtype))
    images = images.to(device_of(ready, images.device))
    random = torch.Generator().manual_seed(0)
    members = [*ready.named_parameters(), *ready.named_buffers()]
    with torch.inference_mode(False), torch.enable_grad():
        tensors = {name: _as_leaf(tensor) for name, tensor in members if tensor.is_floating_point()}
        gradients: dict[str, Tensor] = {}
        for image in images.clone().split(1):
            with _DifferentiableStatistics():
                outputs = flatten_outputs(functional_call(ready, tensors, (image,)))
            projection = sum(_project(output, random) for output in outputs if output.requires_grad)
            if isinstance(projection, Tensor):
                _add_gradients_(gradients, tensors, projection)
    moves = {
        name: gradients.pop(name) * _scale(tensor) if name in gradients else torch.zeros_like(tensor, requires_grad=False)
        for name, tensor in tensors.items()
    }
    names = {id(tensor): name for name, tensor in members}
    keys = {key: names.get(id(tensor)) for key, tensor in ready.state_dict(keep_vars=True).items()}  # tied ones have one name
    return {key: moves[name] for key, name in keys.items() if name in moves}


def _add_gradients_(gradients: dict[str, Tensor], tensors: dict[str, Tensor], projection: Tensor) -> None:
    """Adds each tensor's gradient, where it has one, to those of the images before."""
    parts = torch.autograd.grad(projection, list(tensors.values()), allow_unused=True)
    for name, part in zip(tensors, parts, strict=True):
        if part is not None:
            gradients[name] = gradients[name] + part if name in gradients else part


def _as_leaf(tensor: Tensor) -> Tensor:
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()


def _project(output: Tensor, random: torch.Generator) -> Tensor:
    """A random sum of an image's (1, K) outputs whose deviation is their root mean square, relative to the largest of them."""
    weights = torch.randn(output.shape, generator=random, dtype=output.dtype).to(output.device)
    scale = float(output.detach().abs().max()) or 1.0
    return (output * weights).sum() / (scale * math.sqrt(output.shape[1]))


def _scale(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt()) or 1.0


class _DifferentiableStatistics(TorchFunctionMode):
    """Folds running statistics, of which torch's batch normalisation has no gradient, into its weight and bias."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_normalize_by_statistics if func is F.batch_norm else func)(*args, **(kwargs or {}))


def _normalize_by_statistics(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt() if weight is None else (running_var + eps).rsqrt() * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return F.batch_norm(x, torch.zeros_like(running_mean), torch.ones_like(running_var), scale, shift, eps=0.0)
