"""Pooling to a size, of windows that do not overlap, and of runs of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import as_pair
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from i2p_zoo.sparse.tokens.layout import Atom
from i2p_zoo.sparse.tokens.site_tokens import as_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


@token_op(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """The mean over windows where the size divides the canvas; else they overlap, and the canvas is pooled as an image."""
    x = as_tokens(x)
    batch, channels, height, width = x.shape
    sizes = output_size if isinstance(output_size, list | tuple) else (output_size, output_size)
    rows, columns = (old if new is None else int(new) for old, new in zip((height, width), sizes, strict=True))
    if height % rows or width % columns:
        canvas = spread_on_canvas(x)
        if takes_device_path(canvas):
            return _pool_side(_pool_side(canvas, rows, 2), columns, 3)
        return F.adaptive_avg_pool2d(canvas, (rows, columns))
    return x.view(batch, channels, rows, height // rows, columns, width // columns).mean((3, 5))


def _pool_side(canvas: Tensor, size: int, dim: int) -> Tensor:
    """The means over windows of one side, with no atomic sums in the gradient, as torch's have on a GPU."""
    extent = canvas.shape[dim]
    bounds = [(i * extent // size, -(-(i + 1) * extent // size)) for i in range(size)]
    return torch.cat([canvas.narrow(dim, start, stop - start).mean(dim, keepdim=True) for start, stop in bounds], dim)


def _pool_blocks(x: Any, kernel_size: Any, stride: Any, options: dict[str, Any], reduction: str) -> Any:
    """Pooling of windows that do not overlap, of what is no image of its own: a reduction over low digits."""
    x = as_tokens(x)
    kernel = as_pair(kernel_size)
    plain = as_pair(stride or kernel) == kernel and not any(options.values())
    if x.ndim != 4 or not plain or any(size % step for size, step in zip(x.shape[2:], kernel, strict=True)):
        raise UnsupportedError(
            f"Pooling of {x!r} by {kernel_size} at stride {stride}: expected (B, C, H, W) and windows that meet without "
            "overlap or padding."
        )
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // kernel[0], kernel[0], width // kernel[1], kernel[1])
    return getattr(torch, reduction)(blocks, (3, 5))


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
    """The maximum of blocks within windows."""
    options = {"padding": as_pair(padding) != (0, 0), "dilation": as_pair(dilation) != (1, 1), "indices": return_indices}
    return _pool_blocks(x, kernel_size, stride, options, "amax")


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
    """The mean of blocks within windows."""
    options = {"padding": as_pair(padding) != (0, 0), "divisor": divisor_override}
    return _pool_blocks(x, kernel_size, stride, options, "mean")


@token_op(F.avg_pool1d)
def avg_pool1d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Any:
    """The mean of runs of tokens, as the canvas numbers them; along the third axis a run is as long as its square root."""
    x = as_tokens(x)
    size, step, around = (v[0] if isinstance(v, tuple) else v for v in (kernel_size, stride or kernel_size, padding))
    rows = x.rows
    if step != size or around or x.shape[-1] % size or not all(a.is_digit for a in x.dims[-1]) or rows.prefix:
        raise UnsupportedError(
            f"`avg_pool1d` of {x!r} by {size} at stride {step} with padding {around}: expected runs that divide the image's "
            "tokens."
        )
    coords, index = rows.remember(("runs", size, x.dims[-1]), lambda: _runs(rows, x.dims[-1], size))
    coarse = TokenRows.of(coords, rows.cache, rows.batch_size, rows.axis)
    dims = (*x.dims[:-1], (Atom("y", x.shape[-1] // size),))
    return TokenTensor(coarse, [segment(x.values, index, "mean")], dims)


def _runs(rows: TokenRows, dim: tuple[Atom, ...], size: int) -> tuple[Tensor, RowIndex]:
    coords = torch.zeros_like(rows.coords)
    coords[:, 0] = rows.coords[:, 0]
    coords[:, 1 + rows.axis] = torch.div(rows.coords[:, 1 + rows.axis], round(size**0.5), rounding_mode="floor")
    coords[:, rows.column("y")] = torch.div(rows.number(dim), size, rounding_mode="floor").int()
    unique, inverse = unique_rows(coords)
    return unique.contiguous(), RowIndex(inverse, len(unique))
