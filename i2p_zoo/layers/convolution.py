"""SparseConv3d: a 3D convolution on sparse voxels that stands for a 2D one."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.layers.kernel_inflation import deflate_weight, inflate_weight
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.layers.token_convolution import convolve_tokens
from i2p_zoo.sparse.geometry import AXES, Pair, as_pair, centred_padding, check_axis, insert_axis
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor
from i2p_zoo.sparse.windows import plan_window


class SparseConv3d(nn.Module):
    """A 3D convolution on sparse voxels that stands for a 2D one.

    Strided, its output sites are the unique floor(c / stride); at stride 1 it keeps its sites (submanifold).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: (height, width) of the 2D kernel, or one number.
        stride: (height, width); the new axis takes the larger.
        padding: ((top, bottom), (left, right)); "centred" for (kernel - 1) * dilation / 2, the lesser half first;
            or "same" for TensorFlow's.
        dilation: (height, width); the new axis takes the larger.
        groups: channel groups.
        bias: whether there is a bias.
        axis: the axis, "z", "y" or "x", that the 2D kernel did not have.
        depth: kernel length along it; by default the larger of height and width.
        device, dtype: of the parameters.

    Attributes:
        weight: (out_channels, kz, ky, kx, in_channels / groups), the layout KRSC of spconv 2.x.
        bias: (out_channels,) or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: tuple[Pair, Pair] | str = "centred",
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        axis: str = "z",
        depth: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise InvalidInputError(
                f"`in_channels` (={in_channels}) and `out_channels` (={out_channels}) must be divisible by `groups` "
                f"(={groups})."
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = as_pair(kernel_size), as_pair(stride), as_pair(dilation)
        self.axis = axis
        self.depth = max(self.kernel_size) if depth is None else depth
        if padding == "centred":
            rows, columns = map(centred_padding, self.kernel_size, self.dilation)
            self.padding: tuple[Pair, Pair] | None = (rows, columns)
        elif isinstance(padding, str):
            if padding != "same":
                raise InvalidInputError(f"`padding` must be numbers, 'centred' or 'same'; got {padding!r}.")
            self.padding = None
        else:
            self.padding = padding
        shape = (out_channels, *insert_axis(self.kernel_size, self.depth, check_axis(axis)), in_channels // groups)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        if not self.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises for ReLU networks by fan-out (He et al. 2015), as timm does; the bias to zero."""
        fan_out = self.weight.shape[-4:-1].numel() * self.out_channels // self.groups
        nn.init.normal_(self.weight, 0.0, (2.0 / fan_out) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def kernel(self) -> Tensor:
        """Returns the weight that convolves, (out_channels, kz, ky, kx, in_channels / groups)."""
        return self.weight

    def inflate_tensor(self, name: str, source: Tensor, inflation: str) -> Tensor | None:
        """Returns the 3D tensor of a 2D one of the leaf's, or None where it is copied or does not fit."""
        out, *_, inputs = self.weight.shape
        if name != "weight" or tuple(source.shape) != (out, inputs, *self.kernel_size):
            return None
        return inflate_weight(source, inflation, self.axis, self.depth)

    def deflate_tensor(self, name: str, inflated: Tensor, inflation: str) -> Tensor | None:
        """Undoes `inflate_tensor`; None where the tensor is no inflation, or not an untouched one."""
        return deflate_weight(inflated, inflation, self.axis) if name == "weight" else None

    def forward(self, x: Any) -> Any:
        """Convolves.

        Args:
            x: a sparse tensor with (N, in_channels) features; tokens; or a dense (B, in_channels, H, W): pooled, or a table
                over the canvas.

        Returns:
            A tensor of the same sort.

        Raises:
            UnsupportedError: a dense input of other dimensions, or tokens that are no image, no heads and no windows.
        """
        if isinstance(x, TokenTensor):
            return convolve_tokens(self, x)
        if not isinstance(x, SparseTensor):
            return self.convolve_image(x)
        return self.convolve(x, self.kernel(), self.bias, self.groups)

    def convolve(self, x: SparseTensor, weight: Tensor, bias: Tensor | None, groups: int) -> SparseTensor:
        """Convolves with another (out, kz, ky, kx, in / groups) weight in the layer's geometry; raises as `forward`."""
        window, level = plan_window(
            x, self.kernel_size, self.stride, self.padding, self.dilation, depth=self.depth, axis=AXES[self.axis]
        )
        return sparse_convolution(x, weight, bias, window, groups, level)

    def convolve_image(self, x: Tensor) -> Tensor:
        """Convolves a dense (B, C, H, W) image, a single plane, which meets the kernel's middle one; raises as `forward`."""
        if x.ndim != 4 or (self.padding is None and self.kernel_size != (1, 1)):
            raise UnsupportedError(
                f"A sparse {self.kernel_size} convolution with padding={self.padding or 'same'} got a dense tensor of shape "
                f"{tuple(x.shape)}: expected (B, C, H, W), and padding by numbers for a kernel larger than 1."
            )
        axis, kernel = 1 + AXES[self.axis], self.kernel()
        if self.kernel_size == (1, 1):
            kernel = kernel.flatten(1)[:, :, None, None]  # in the layout that torch has its quick way for
        else:
            kernel = kernel.select(axis, (kernel.shape[axis] - 1) // 2).permute(0, 3, 1, 2)
        (top, bottom), (left, right) = self.padding or ((0, 0), (0, 0))
        x = nn.functional.pad(x, (left, right, top, bottom)) if any((top, bottom, left, right)) else x
        return nn.functional.conv2d(x, kernel, self.bias, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        kernel = "x".join(str(k) for k in self.weight.shape[-4:-1])
        padding = "same" if self.padding is None else self.padding
        return (
            f"{self.in_channels}, {self.out_channels}, kernel={kernel}, stride={self.stride}, padding={padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


keep(SparseConv3d)


def convolution_arguments(leaf: Any, axis: str, depth: int | None, *, same: bool) -> dict[str, Any]:
    """Returns the arguments of the `SparseConv3d` that stands for a 2D convolution.

    Args:
        leaf: any module with the attributes of nn.Conv2d.
        axis, depth: as a builder's.
        same: whether the leaf pads as TensorFlow's 'same' does, by the input's size.

    Raises:
        UnsupportedError: padding by anything but zeros.
    """
    if getattr(leaf, "padding_mode", "zeros") != "zeros":
        raise UnsupportedError(f"padding_mode={leaf.padding_mode!r}; only 'zeros' has a sparse counterpart")
    kernel = as_pair(leaf.kernel_size)
    pads: tuple[Pair, Pair] | str
    if same:
        pads = "same"
    elif leaf.padding == "same":
        pads = "centred"
    elif leaf.padding == "valid":
        pads = ((0, 0), (0, 0))
    else:
        top, left = as_pair(leaf.padding)
        pads = ((top, top), (left, left))
    return {
        "in_channels": leaf.in_channels,
        "out_channels": leaf.out_channels,
        "kernel_size": kernel,
        "stride": as_pair(leaf.stride),
        "padding": pads,
        "dilation": as_pair(leaf.dilation),
        "groups": leaf.groups,
        "bias": leaf.bias is not None,
        "axis": axis,
        "depth": None if depth is None else min(depth, max(kernel)),
        "device": "meta",
        "dtype": leaf.weight.dtype,
    }


@replaces(nn.Conv2d, Conv2dSame)
def build_convolution(leaf: nn.Conv2d, axis: str, depth: int | None, inflation: str) -> SparseConv3d:
    """Builds the 3D layer of a 2D convolution; raises UnsupportedError for padding by anything but zeros."""
    return SparseConv3d(**convolution_arguments(leaf, axis, depth, same=type(leaf) is Conv2dSame))
