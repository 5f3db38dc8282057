"""The table of 2D leaves: `@replaces(type, ...)` builds the sparse 3D layer of a leaf, `keep(type, ...)` lets it run as it is.

Types are matched exactly, never by inheritance or name: a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.blur_pool import BlurPool2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear as TimmLinear
from timm.layers.norm_act import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from i2p_zoo.convolution import convolve, sparse_convolution, with_window
from i2p_zoo.coordinates import SiteCache, Triple
from i2p_zoo.errors import I2PError, InvalidInputError, UnsupportedError
from i2p_zoo.kernel_maps import AXES, Window, kernel_map, window_sites
from i2p_zoo.sparse_tensor import SparseTensor
from i2p_zoo.windows import Pair, as_pair, insert_axis, plan_window

Builder = Callable[..., nn.Module]
_builders: dict[type[nn.Module], Builder | None] = {}


def replaces(*types: type[nn.Module]) -> Callable[[Builder], Builder]:
    """Registers the decorated function as the builder of the 3D layer for 2D leaves of exactly these types.

    The builder is called as `builder(leaf, axis=..., depth=...)` (axis "z", "y" or "x"; depth the longest kernel along it,
    or None) and returns a module without meaningful weights: same parameter names, device and dtype as the leaf's.

    Raises:
        I2PError: one of the types is registered already.
    """

    def register(builder: Builder) -> Builder:
        _register(types, builder)
        return builder

    return register


def keep(*types: type[nn.Module]) -> None:
    """Registers 2D modules that own parameters or buffers and run on sparse tensors by their own forward.

    Raises:
        I2PError: one of the types is registered already.
    """
    _register(types, None)


def _register(types: tuple[type[nn.Module], ...], builder: Builder | None) -> None:
    for kind in types:
        if kind in _builders:
            raise I2PError(f"{kind.__module__}.{kind.__qualname__} is registered as a 2D leaf already.")
    _builders.update(dict.fromkeys(types, builder))


def find_builder(module: nn.Module) -> Builder | None:
    """Returns the builder registered for a module's exact type, or None where it stays as it is."""
    return _builders.get(type(module))


def is_supported(module: nn.Module) -> bool:
    """Whether a module's own tensors are understood: its exact type is registered, or it owns none."""
    owned = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    return type(module) in _builders or not owned


def supported_types() -> list[str]:
    """Returns the qualified names of all registered 2D leaves, sorted."""
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in _builders)


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
            spans = [(k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            self.padding: tuple[Pair, Pair] | None = (_halves(spans[0]), _halves(spans[1]))
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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises for ReLU networks by fan-out (He et al. 2015), as timm does; the bias to zero."""
        fan_out = self.weight[0, ..., 0].numel() * self.out_channels // self.groups
        nn.init.normal_(self.weight, 0.0, (2.0 / fan_out) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: SparseTensor | Tensor) -> SparseTensor | Tensor:
        """Convolves.

        Args:
            x: a sparse tensor with (N, in_channels) features, or a pooled dense (B, in_channels, 1, 1), which a 1x1
                convolution treats as the linear layer it is.

        Returns:
            A sparse tensor, or a dense (B, out_channels, 1, 1).

        Raises:
            UnsupportedError: a dense input that is not (B, C, 1, 1), or a kernel larger than 1 on one.
        """
        if not isinstance(x, SparseTensor):
            return self._pooled(x)
        window, level = plan_window(
            x, self.kernel_size, self.stride, self.padding, self.dilation, depth=self.depth, axis=AXES[self.axis]
        )
        return sparse_convolution(x, self.weight, self.bias, window, self.groups, level)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.kernel_size != (1, 1) or x.ndim != 4 or x.shape[-2:] != (1, 1):
            raise UnsupportedError(
                f"A sparse {self.kernel_size} convolution got a dense tensor of shape {tuple(x.shape)}: only pooled "
                "(B, C, 1, 1) tensors through 1x1 convolutions, as in squeeze-and-excitation, are dense."
            )
        return nn.functional.conv2d(x, self.weight[:, 0, 0, 0, :, None, None], self.bias, groups=self.groups)

    def extra_repr(self) -> str:
        """Describes the layer in `print(model)`."""
        kernel = "x".join(str(k) for k in self.weight.shape[1:4])
        padding = "same" if self.padding is None else self.padding
        return (
            f"{self.in_channels}, {self.out_channels}, kernel={kernel}, stride={self.stride}, padding={padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class SparseBlurPool3d(nn.Module):
    """timm's BlurPool2d on sparse voxels: the same binomial filter, on the plane of the image.

    With a `spatial_shape` the border is padded as in 2D; without one the filter averages over the active voxels.

    Args:
        pool: the 2D layer; its filter is shared, not copied.
        axis: the axis that the 2D layer does not have.
    """

    filt: Tensor

    def __init__(self, pool: BlurPool2d, axis: str) -> None:
        super().__init__()
        self.channels, self.stride, self.filt_size, self.pad_mode = pool.channels, pool.stride, pool.filt_size, pool.pad_mode
        self.axis = axis
        self.padding = ((pool.padding[2], pool.padding[3]), (pool.padding[0], pool.padding[1]))
        self.register_buffer("filt", pool.filt, persistent=False)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Blurs and strides (N, C) features."""
        size = (self.filt_size, self.filt_size)
        window, level = plan_window(x, size, as_pair(self.stride), self.padding, depth=1, axis=AXES[self.axis])
        channels = x.features.shape[1]
        plane = self.filt.to(x.dtype).expand(channels, -1, -1, -1)
        weight = plane.permute(0, 2, 3, 1).unsqueeze(1 + AXES[self.axis])
        if x.spatial_shape is None:
            coords, shape, kmap = window_sites(x.cache, x.coords, None, window)
            total = convolve(x.features, weight, kmap, channels)
            norm = convolve(x.features.new_ones(len(x.coords), 1), weight[:1], kmap, 1)
            return with_window(x, total / norm.clamp(min=torch.finfo(x.dtype).tiny), coords, shape, window, level)
        if self.pad_mode == "constant":
            return sparse_convolution(x, weight, None, window, channels, level)
        out_coords, shape, _ = window_sites(x.cache, x.coords, x.spatial_shape, window)
        rows, padded = reflected_sites(x.cache, x.coords, x.spatial_shape, window)
        kmap = kernel_map(x.cache, padded, out_coords, window)
        out = convolve(x.features.index_select(0, rows), weight, kmap, channels)
        return with_window(x, out, out_coords, shape, window, level)


def reflected_sites(cache: SiteCache, coords: Tensor, shape: Triple, window: Window) -> tuple[Tensor, Tensor]:
    """Adds mirror images of the sites near a border, as torch's 'reflect' padding does.

    Returns:
        (M,) int64, the row of `coords` each padded site copies, and (M, 4) int32, the padded sites.
    """
    key = ("reflected", cache.key(coords), shape, window.before, window.after)
    if key not in cache.derived:
        rows, padded = torch.arange(len(coords), device=coords.device), coords
        for axis in range(3):
            column = padded[:, axis + 1]
            low = (column > 0) & (column <= window.before[axis])
            last = shape[axis] - 1
            high = (column < last) & (column >= last - window.after[axis])
            images = [padded]
            for near, mirror in ((low, 0), (high, 2 * last)):
                image = padded[near].clone()
                image[:, axis + 1] = mirror - image[:, axis + 1]
                images.append(image)
            rows = torch.cat([rows, rows[low], rows[high]])
            padded = torch.cat(images)
        cache.derived[key] = (rows, padded.contiguous())
    result: tuple[Tensor, Tensor] = cache.derived[key]
    return result


def check_axis(axis: str) -> int:
    """Returns 0, 1 or 2 for "z", "y" or "x"; raises InvalidInputError for anything else."""
    if axis not in AXES:
        raise InvalidInputError(f"`axis` must be 'z', 'y' or 'x'; got {axis!r}.")
    return AXES[axis]


def _halves(span: int) -> Pair:
    return (span // 2, span - span // 2)


@replaces(nn.Conv2d, Conv2dSame)
def build_convolution(leaf: nn.Conv2d, axis: str, depth: int | None) -> SparseConv3d:
    """Builds the 3D layer of a 2D convolution; raises UnsupportedError for padding by anything but zeros."""
    if leaf.padding_mode != "zeros":
        raise UnsupportedError(f"padding_mode={leaf.padding_mode!r}; only 'zeros' has a sparse counterpart")
    kernel, padding = as_pair(leaf.kernel_size), leaf.padding
    pads: tuple[Pair, Pair] | str
    if type(leaf) is Conv2dSame:
        pads = "same"
    elif padding == "same":
        pads = "centred"
    elif padding == "valid":
        pads = ((0, 0), (0, 0))
    else:
        top, left = as_pair(padding)  # type: ignore[arg-type]
        pads = ((top, top), (left, left))
    return SparseConv3d(
        leaf.in_channels,
        leaf.out_channels,
        kernel,
        as_pair(leaf.stride),
        pads,
        as_pair(leaf.dilation),
        leaf.groups,
        leaf.bias is not None,
        axis,
        None if depth is None else min(depth, max(kernel)),
        device="meta",
        dtype=leaf.weight.dtype,
    )


@replaces(BlurPool2d)
def build_blur_pool(leaf: BlurPool2d, axis: str, depth: int | None) -> SparseBlurPool3d:
    """Builds the sparse layer of timm's blur pool; raises UnsupportedError for paddings that are neither mirror nor zero."""
    if leaf.pad_mode not in ("reflect", "constant"):
        raise UnsupportedError(f"pad_mode={leaf.pad_mode!r}; only 'reflect' and 'constant' have a sparse counterpart")
    return SparseBlurPool3d(leaf, axis)


keep(nn.BatchNorm2d, BatchNormAct2d, FrozenBatchNormAct2d, FrozenBatchNorm2d)
keep(nn.Linear, TimmLinear, nn.BatchNorm1d, nn.Conv1d, nn.PReLU)
keep(SparseConv3d, SparseBlurPool3d)
