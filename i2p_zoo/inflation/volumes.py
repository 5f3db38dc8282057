"""Kernels drawn in three dimensions, as a 3D network that was no 2D one before begins."""

from __future__ import annotations

import math
from typing import Any

import torch

from i2p_zoo.inflation.state import deflate_kernel


@torch.no_grad()
def draw_volumes_(model: Any) -> None:
    """Draws a network's inflated kernels anew, all taps apart, from torch's global generator.

    Inflating a random 2D kernel gives one whose planes are all alike. Here each tap is drawn by itself, with the variance by
    which the sum over a volume keeps the scale that the 2D network's initialisation gives it over a plane: that of the 2D
    kernel, divided by the length of the new axis (He et al. 2015, "Delving deep into rectifiers", for a fan of three
    dimensions). Kernels of one plane, and all other tensors, stay.

    Args:
        model: a `PointCloudModel` with random weights, in place. Kernels that are no pure inflation stay: a point stem's, which
            is drawn so at once, and trained ones.

    Example:
        >>> import i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", inflation="average")
        >>> weight = model.layer1[0].conv1.weight
        >>> bool((weight[:, 0] == weight[:, 1]).all())
        True
        >>> draw_volumes_(model)
        >>> bool((weight[:, 0] == weight[:, 1]).any())
        False
    """
    for name, tensor in model.named_parameters():
        kernel = deflate_kernel(model, name, tensor.detach())
        if kernel is not None and kernel.numel() < tensor.numel():
            planes = tensor.numel() / kernel.numel()
            tensor.normal_(0.0, float(kernel.square().mean()) ** 0.5 / math.sqrt(planes))
