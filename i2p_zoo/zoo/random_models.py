"""2D networks with random parameters that a certificate can be measured on: every branch alive, rounding not amplified."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.modules import image_channels
from i2p_zoo.names import split_name
from i2p_zoo.networks.timm_models import create_timm_model


def create_random_model(name: str) -> nn.Module:
    """Creates timm's 2D network in eval mode, with seeded random parameters and BatchNorm statistics.

    Raises:
        NotFoundError: no such architecture.
    """
    architecture, _ = split_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_timm_model(architecture).eval()
        randomize_constants_(model)
        randomize_statistics_(model, example_images(model))
    return model


def randomize_constants_(model: nn.Module) -> None:
    """Draws every parameter that timm initialises to a constant, from torch's global generator.

    A scale or gate that starts at 0 (or LayerScale's 1e-6) would hide the branch behind it from a certificate. GroupNorm gets
    larger biases, since it divides by its own input's deviation and so amplifies rounding.
    """
    with torch.no_grad():
        for module in model.modules():
            deviation = 0.5 if isinstance(module, nn.GroupNorm) else 0.3
            for parameter in module.parameters(recurse=False):
                constant = float(parameter.flatten()[0]) if parameter.numel() else 0.0
                if not bool((parameter == constant).all()):
                    continue
                if abs(constant) > 0.1:
                    parameter.uniform_(0.5, 1.5).mul_(constant)
                else:
                    parameter.normal_(0.0, deviation)


@torch.no_grad()
def randomize_statistics_(model: nn.Module, images: Tensor) -> None:
    """Draws BatchNorm statistics about the scale of the activations that images cause, from torch's global generator.

    All channels of a layer share one scale: dividing each by its own raises the weak ones, and a deep network of such layers
    amplifies rounding without bound (Yang et al. 2019, "A mean field theory of batch normalization"). Without any scale
    activations grow until gates saturate.

    Args:
        model: in eval mode; changed in place.
        images: (B, C, H, W).
    """

    def draw(norm: Any, inputs: tuple[Tensor]) -> None:
        power = inputs[0].square().mean() + norm.eps
        norm.running_var.uniform_(0.5, 1.5).mul_(power)
        norm.running_mean.normal_(0.0, 0.1).mul_(power.sqrt())

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(draw) for norm in norms]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


def example_images(model: nn.Module) -> Tensor:
    """Returns (1, C, H, W) seeded noise of the input size that timm states for a model (3 x 64 x 64 for any other)."""
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 64, 64))
    return torch.randn(1, image_channels(model), *size[1:], generator=torch.Generator().manual_seed(0))
