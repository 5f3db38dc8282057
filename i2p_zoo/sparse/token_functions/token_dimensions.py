"""Dimensions of tokens: symbols move, data stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from i2p_zoo.sparse.tokens.layout import channel, extent, merge, regroup, resolve, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens, permute_to, reshape_to
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive


def unpack_sizes(values: Sequence[Any]) -> list[Any]:
    return list(values[0]) if len(values) == 1 and not isinstance(values[0], int) else list(values)


@token_op(*methods("reshape", "view"))
def reshape(x: Any, *shape: Any, **kwargs: Any) -> Any:
    if isinstance(kwargs.get("shape"), list | tuple):
        shape = tuple(kwargs["shape"])
    if len(shape) == 1 and isinstance(shape[0], torch.dtype):
        return x.to(shape[0])
    return reshape_to(as_tokens(x), unpack_sizes(shape))


@token_op(*methods("reshape_as", "view_as"))
def reshape_as(x: Any, other: Any) -> Any:
    if isinstance(x, Tensor):
        return x.reshape(tuple(other.shape))
    return reshape_to(as_tokens(x), tuple(other.shape))


@token_op(*methods("flatten"))
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    x = as_tokens(x)
    start, end = positive(x, start_dim), positive(x, end_dim)
    joined = merge([atom for dim in x.dims[start : end + 1] for atom in dim])
    return change_layout(x, (*x.dims[:start], joined, *x.dims[end + 1 :]))


@token_op(*methods("unflatten"))
def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    x = as_tokens(x)
    dim = positive(x, dim)
    parts = regroup((x.dims[dim],), resolve((x.shape[dim],), sizes))
    return change_layout(x, (*x.dims[:dim], *parts, *x.dims[dim + 1 :]))


@token_op(*methods("permute"))
def permute(x: Any, *dims: Any) -> Any:
    return permute_to(as_tokens(x), unpack_sizes(dims))


@token_op(*methods("transpose", "swapaxes", "swapdims"))
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    x = as_tokens(x)
    order = list(range(x.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute_to(x, order)


@token_op(*methods("movedim"))
def movedim(x: Any, source: int, destination: int) -> Any:
    x = as_tokens(x)
    order = [i for i in range(x.ndim) if i != positive(x, source)]
    order.insert(positive(x, destination), positive(x, source))
    return permute_to(x, order)


@token_op(*methods("unsqueeze"))
def unsqueeze(x: Any, dim: int) -> Any:
    x = as_tokens(x)
    dim = dim + x.ndim + 1 if dim < 0 else dim
    return change_layout(x, (*x.dims[:dim], (), *x.dims[dim:]))


@token_op(*methods("squeeze"))
def squeeze(x: Any, dim: Any = None) -> Any:
    x = as_tokens(x)
    target = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {positive(x, d) for d in target if x.shape[d] == 1 and not site_atoms((x.dims[d],))}
    return change_layout(x, tuple(d for i, d in enumerate(x.dims) if i not in gone))


@token_op(*methods("expand", "expand_as"))
def expand(x: Any, *shape: Any) -> Any:
    """Repeats dimensions of extent 1; a dense tensor beside tokens is left, since arithmetic broadcasts it."""
    if isinstance(x, Tensor):
        return x
    x = as_tokens(x)
    target = list(shape[0].shape) if len(shape) == 1 and hasattr(shape[0], "shape") else unpack_sizes(shape)
    target = [have if want == -1 else want for have, want in zip((1,) * (len(target) - x.ndim) + x.shape, target, strict=True)]
    if tuple(target[len(target) - x.ndim :]) == x.shape and len(target) == x.ndim:
        return x
    grows = [i for i, (h, w) in enumerate(zip((1,) * (len(target) - x.ndim) + x.shape, target, strict=True)) if h != w]
    like = shape[0] if len(shape) == 1 and isinstance(shape[0], TokenTensor) else None
    if like is not None and any(site_atoms((like.dims[i],)) for i in grows):
        return x  # arithmetic spreads it over the rows of the other
    ones = x.blocks[0].new_ones([w if i in grows else 1 for i, w in enumerate(target)])
    return x * ones


@token_op(*methods("repeat"))
def repeat(x: Any, *counts: Any) -> Any:
    x = as_tokens(x)
    counts = unpack_sizes(counts)
    dims = ((),) * (len(counts) - x.ndim) + x.dims
    if any(count != 1 and extent(dim) != 1 for count, dim in zip(counts, dims, strict=True)):
        raise UnsupportedError(f"`repeat` of {x!r} by {tuple(counts)}.")
    return x * x.blocks[0].new_ones(counts)


@token_op(*methods("repeat_interleave"))
def repeat_interleave(x: Any, repeats: int, dim: int | None = None) -> Any:
    x = as_tokens(x)
    if site_atoms((x.dims[dim],)):  # one tensor for all windows of an image: a table over the canvas
        return spread_on_canvas(x).repeat_interleave(repeats, dim)
    at = feature_dim(x, dim, "repeat_interleave")
    dims = list(x.dims)
    dims[positive(x, dim)] = (channel(x.shape[dim] * repeats),)
    return make_tokens(x.space, [block.repeat_interleave(repeats, at) for block in x.blocks], tuple(dims))
