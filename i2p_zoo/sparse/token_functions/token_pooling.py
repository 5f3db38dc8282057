"""Pooling to a size, of windows that do not overlap, and of runs of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import as_pair
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.site_tokens import as_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


@token_op(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """To a size that divides the canvas: the mean over windows."""
    x = as_tokens(x)
    height, width = as_pair(output_size)
    batch, channels, *extents = x.shape
    if extents[0] % height or extents[1] % width:  # windows that overlap: of the canvas, a dense image
        return F.adaptive_avg_pool2d(spread_on_canvas(x), output_size)
    return x.view(batch, channels, height, extents[0] // height, width, extents[1] // width).mean((3, 5))


def _pool_blocks(x: Any, kernel_size: Any, stride: Any, padding: Any, reduction: str) -> Any:
    """Pooling of blocks that do not overlap, of windows that are no image of their own: a reduction over low digits."""
    x = as_tokens(x)
    kernel = as_pair(kernel_size)
    if as_pair(stride or kernel) != kernel or as_pair(padding) != (0, 0):
        raise UnsupportedError(f"Pooling of {x!r} by {kernel_size} at stride {stride} with padding {padding}.")
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // kernel[0], kernel[0], width // kernel[1], kernel[1])
    return getattr(torch, reduction)(blocks, (3, 5))


@token_op(F.avg_pool1d)
def avg_pool1d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Any:
    """The mean of runs of tokens, as the canvas numbers them; along the third axis a run is as long as its square root."""
    x = as_tokens(x)
    size = kernel_size[0] if isinstance(kernel_size, tuple) else kernel_size
    step = stride[0] if isinstance(stride, tuple) else (stride or size)
    rows = x.rows
    if (
        step != size
        or padding not in (0, (0,))
        or x.shape[-1] % size
        or any(a.role not in "yx" for a in x.dims[-1])
        or rows.prefix
    ):
        raise UnsupportedError(f"`avg_pool1d` of {x!r} by {kernel_size}.")

    def make() -> tuple[Tensor, Tensor]:
        place = torch.zeros_like(rows.batch)
        for atom in x.dims[-1]:
            place = place * atom.extent + rows.index(atom)
        coords = torch.zeros_like(rows.coords)
        coords[:, 0] = rows.coords[:, 0]
        coords[:, 1 + rows.axis] = torch.div(rows.coords[:, 1 + rows.axis], round(size**0.5), rounding_mode="floor")
        coords[:, 1 + rows.plane[0]] = torch.div(place, size, rounding_mode="floor").int()
        unique, inverse = unique_rows(coords)
        return unique.contiguous(), inverse

    coords, inverse = rows.remember(("runs", size, x.dims[-1]), make)
    coarse = TokenRows.of(coords, rows.cache, rows.batch_size, rows.axis)
    dims = (*x.dims[:-1], (Atom("y", x.shape[-1] // size),))
    return TokenTensor(coarse, [segment(x.values, inverse, len(coarse), "mean")], dims)


@token_op(F.max_pool2d, torch.max_pool2d)
def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Of blocks within windows."""
    return _pool_blocks(x, kernel_size, stride, padding, "amax")


@token_op(F.avg_pool2d)
def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Of blocks within windows."""
    return _pool_blocks(x, kernel_size, stride, padding, "mean")
