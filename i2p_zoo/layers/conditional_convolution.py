"""CondConv2d: a convolution whose weight is mixed, a sample, from those of several experts."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import Tensor, nn

from i2p_zoo.layers.convolution import SparseConv3d, convolution_arguments
from i2p_zoo.layers.kernel_inflation import deflate_weight, inflate_weight
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.geometry import AXES
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.windows import plan_window


class SparseCondConv3d(SparseConv3d):
    """Conditionally parameterised convolution (Yang et al. 2019) on sparse voxels.

    The experts' outputs are mixed, which equals the output of the mixed weight.

    Args:
        num_experts: number of weights.
        **kwargs: as `SparseConv3d`.

    Attributes:
        weight: (num_experts, out_channels, kz, ky, kx, in_channels / groups).
        bias: (num_experts, out_channels) or None.
    """

    def __init__(self, *, num_experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.weight = nn.Parameter(torch.stack([self.weight.detach()] * num_experts))
        if self.bias is not None:
            self.bias = nn.Parameter(torch.stack([self.bias.detach()] * num_experts))

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """Returns the 3D tensor of timm's flat (num_experts, numbers of a kernel), or None where it is copied."""
        experts, out, *_, inputs = self.weight.shape
        if name != "weight" or tuple(source.shape) != (experts, out * inputs * math.prod(self.kernel_size)):
            return None
        flat = source.reshape(experts * out, inputs, *self.kernel_size)
        return inflate_weight(flat, inflation, self.axis, self.depth).reshape(self.weight.shape)

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`; None where the tensor is no inflation, or not an untouched one."""
        flat = deflate_weight(inflated.flatten(0, 1), inflation, self.axis) if name == "weight" else None
        return None if flat is None else flat.reshape(self.num_experts, -1)

    def forward(self, x: SparseTensor, routing_weights: Tensor) -> SparseTensor:  # type: ignore[override]
        """Convolves (N, in_channels) features; `routing_weights` (B, num_experts) mix the experts for each sample."""
        window, level = plan_window(
            x, self.kernel_size, self.stride, self.padding, self.dilation, depth=self.depth, axis=AXES[self.axis]
        )
        biases = [None] * self.num_experts if self.bias is None else self.bias.unbind(0)
        outputs = [
            sparse_convolution(x, weight, bias, window, self.groups, level)
            for weight, bias in zip(self.weight.unbind(0), biases, strict=True)
        ]
        gates = outputs[0].batch_index.take(routing_weights)
        mixed = torch.stack([out.features for out in outputs], 1) * gates[:, :, None]
        return outputs[0].derive(mixed.sum(1))


keep(SparseCondConv3d)


@replaces(CondConv2d)
def build_conditional_convolution(leaf: CondConv2d, axis: str, depth: int | None, inflation: str) -> SparseCondConv3d:
    """Builds the 3D layer of timm's CondConv2d."""
    arguments = convolution_arguments(leaf, axis, depth, same=leaf.dynamic_padding)
    return SparseCondConv3d(num_experts=leaf.num_experts, **arguments)
