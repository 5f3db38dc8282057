"""Reductions: over sites to one dense row a sample, over channels to a sparse tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import find_handler, methods, sparse_op
from i2p_zoo.sparse.functions.dimensions import channel_dim
from i2p_zoo.sparse.pooling import in_single, reduce_sites
from i2p_zoo.sparse.tensor import SparseTensor


def split_dims(x: SparseTensor, dim: Any, name: str) -> tuple[list[int], bool]:
    """Returns the features' channel dimensions to reduce over, and whether the sites are reduced too.

    Args:
        x: the tensor.
        dim: torch's argument: None, a number or several.
        name: of the function, for the error.

    Raises:
        UnsupportedError: only one of height and width, or the batch, is to be reduced.
    """
    dims = range(x.ndim) if dim is None else ([dim] if isinstance(dim, int) else list(dim))
    positive = {d + x.ndim if d < 0 else d for d in dims}
    sites = set(x.site_dims)
    if 0 in positive or not positive or (positive & sites and not sites <= positive):
        raise UnsupportedError(f"`{name}` over dimensions {dim} of {x!r}: height and width go together, the batch stays.")
    return [channel_dim(x, d, name) for d in sorted(positive - sites)], sites <= positive


def _shaped(x: SparseTensor, dense: Tensor, channels: list[int], keepdim: bool) -> Tensor:
    """Gives a (B, ...) tensor, its reduced channels still there with length 1, the dimensions that torch would."""
    if not keepdim:
        return dense.squeeze(channels) if channels else dense
    height, width = x.site_dims
    return dense.unsqueeze(height).unsqueeze(width)


def _register_reduction(name: str) -> None:
    @sparse_op(*methods(name))
    def reduction(x: SparseTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
        x = x if dtype is None else x.derive(x.features.to(dtype))
        channels, over_sites = split_dims(x, dim, name)
        reduce = getattr(torch, name)
        if not over_sites:
            return x.derive(reduce(x.features, dim=channels, keepdim=keepdim))
        dense = reduce_sites(x, name)
        return _shaped(x, reduce(dense, dim=channels, keepdim=True) if channels else dense, channels, keepdim)

    reduction.__qualname__ = name


for _name in ("mean", "sum", "amax"):
    _register_reduction(_name)


@sparse_op(*methods("var"))
def var(x: SparseTensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Any:
    """Variance, about the mean over the same dimensions."""
    correction = int(unbiased) if correction is None else correction
    channels, over_sites = split_dims(x, dim, "var")
    if not over_sites:
        return x.derive(torch.var(x.features, dim=channels, correction=correction, keepdim=keepdim))
    dtype, x = x.dtype, in_single(x)
    mean = reduce_sites(x, "mean")
    mean = mean.mean(channels, keepdim=True) if channels else mean
    squares = reduce_sites(x.derive((x.features - x.batch_index.take(mean)).square()), "sum")
    total = squares.sum(channels, keepdim=True) if channels else squares
    count = x.sample_counts * (squares[0].numel() // total[0].numel())
    count = (count - correction).view(-1, *[1] * (total.ndim - 1))
    return _shaped(x, (total / count.to(total.dtype)).to(dtype), channels, keepdim)


@sparse_op(*methods("norm"))
def norm(x: SparseTensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: None = None, dtype: Any = None) -> Any:
    """Euclidean norm; its gradient at 0 is 0, as torch's."""
    if p not in (2, "fro", None):
        raise UnsupportedError(f"`norm` of {x!r} with p={p!r}: only the Euclidean norm, p=2.")
    x = x if dtype is None else x.to(dtype)
    channels, over_sites = split_dims(x, dim, "norm")
    if not over_sites:
        return x.derive(torch.linalg.vector_norm(x.features, dim=channels, keepdim=keepdim))
    squares = reduce_sites(x.derive(in_single(x).features.square()), "sum")
    squares = squares.sum(channels, keepdim=True) if channels else squares
    zero = squares == 0
    return _shaped(x, squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0).to(x.dtype), channels, keepdim)


@sparse_op(*methods("max"))
def maximum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum along a channel dimension with its indices, or of two tensors."""
    if isinstance(dim, SparseTensor | Tensor):
        return find_handler(torch.maximum)(x, dim)  # type: ignore[misc]
    values, indices = torch.max(x.features, channel_dim(x, dim, "max"), keepdim)
    return torch.return_types.max((x.derive(values), x.derive(indices)))
