"""Dimensions of tokens: symbols move, data stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tokens.densification import spread_on_canvas
from i2p_zoo.sparse.tokens.layout import channel, describe, extent, merge, regroup, resolve, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens, permute_to, reshape_to
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, replace_dim


def unpack_sizes(values: Sequence[Any]) -> list[Any]:
    """Returns sizes that are given one by one or as one sequence."""
    return list(values[0]) if len(values) == 1 and not isinstance(values[0], int) else list(values)


@token_op(*methods("reshape", "view"))
def reshape(x: Any, *shape: Any, **kwargs: Any) -> Any:
    """Reshapes, or casts to a dtype of the same width, as `torch.Tensor.view` does."""
    if isinstance(kwargs.get("shape"), list | tuple):
        shape = tuple(kwargs["shape"])
    if len(shape) == 1 and isinstance(shape[0], torch.dtype):
        raise UnsupportedError(f"`view` of {x!r} as {shape[0]}: tokens are cast by `.to(dtype)`.")
    return reshape_to(as_tokens(x), unpack_sizes(shape))


@token_op(*methods("reshape_as", "view_as"))
def reshape_as(x: Any, other: Any) -> Any:
    """Reshapes to the shape of another tensor; either may be dense."""
    return x.reshape(tuple(other.shape))


@token_op(*methods("flatten"))
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Joins dimensions."""
    x = as_tokens(x)
    start, end = positive(x, start_dim), positive(x, end_dim)
    if start > end:
        raise InvalidInputError(
            f"`flatten` of {x!r} from dimension {start_dim} to {end_dim}: the first must not be behind the last."
        )
    joined = merge([atom for dim in x.dims[start : end + 1] for atom in dim])
    return change_layout(x, (*x.dims[:start], joined, *x.dims[end + 1 :]))


@token_op(*methods("unflatten"))
def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    """Splits a dimension."""
    x = as_tokens(x)
    dim = positive(x, dim)
    return change_layout(x, replace_dim(x, dim, *regroup((x.dims[dim],), tuple(resolve((x.shape[dim],), sizes)))))


@token_op(*methods("permute"))
def permute(x: Any, *dims: Any) -> Any:
    """Permutes dimensions."""
    return permute_to(as_tokens(x), unpack_sizes(dims))


@token_op(*methods("transpose", "swapaxes", "swapdims"))
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Exchanges two dimensions."""
    x = as_tokens(x)
    first, second = positive(x, dim0), positive(x, dim1)
    order = list(range(x.ndim))
    order[first], order[second] = second, first
    return permute_to(x, order)


@token_op(*methods("movedim"))
def movedim(x: Any, source: int, destination: int) -> Any:
    """Moves one dimension."""
    x = as_tokens(x)
    order = [i for i in range(x.ndim) if i != positive(x, source)]
    order.insert(positive(x, destination), positive(x, source))
    return permute_to(x, order)


@token_op(*methods("unsqueeze"))
def unsqueeze(x: Any, dim: int) -> Any:
    """Adds a dimension of extent 1."""
    x = as_tokens(x)
    if not -x.ndim - 1 <= dim <= x.ndim:
        raise InvalidInputError(f"`unsqueeze` of {x!r} at {dim}: expected {-x.ndim - 1} to {x.ndim}.")
    dim = dim + x.ndim + 1 if dim < 0 else dim
    return change_layout(x, (*x.dims[:dim], (), *x.dims[dim:]))


@token_op(*methods("squeeze"))
def squeeze(x: Any, dim: Any = None) -> Any:
    """Drops dimensions of extent 1; without `dim` a batch of one or a side of one pixel stays, which larger ones have too."""
    x = as_tokens(x)
    target = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {positive(x, d) for d in target if x.shape[d] == 1}
    sites = {d for d in gone if site_atoms((x.dims[d],))}
    if sites and dim is not None:
        raise UnsupportedError(f"`squeeze` of {x!r} along {dim}: a batch or a side of the image stays, also of extent 1.")
    return change_layout(x, tuple(d for i, d in enumerate(x.dims) if i not in gone - sites))


@token_op(*methods("expand", "expand_as"))
def expand(x: Any, *shape: Any) -> Any:
    """Repeats dimensions of extent 1; a dense tensor beside tokens is left, since arithmetic broadcasts it."""
    if isinstance(x, Tensor):
        return x
    x = as_tokens(x)
    like = shape[0] if len(shape) == 1 and hasattr(shape[0], "shape") else None
    target = list(like.shape) if like is not None else unpack_sizes(shape)
    padded = (1,) * (len(target) - x.ndim) + x.shape
    if len(target) < x.ndim or any(size not in (-1, old) and old != 1 for old, size in zip(padded, target, strict=False)):
        raise InvalidInputError(f"`expand` of {x!r} to {tuple(target)}: only dimensions of extent 1 can be repeated.")
    grows = [old == 1 and size not in (-1, 1) for old, size in zip(padded, target, strict=True)]
    if not any(grows):
        return change_layout(x, ((),) * (len(target) - x.ndim) + x.dims)
    if isinstance(like, TokenTensor) and any(grow and site_atoms((dim,)) for grow, dim in zip(grows, like.dims, strict=True)):
        return x  # arithmetic spreads it over the rows of the other
    return x * x.new_ones([size if grow else 1 for grow, size in zip(grows, target, strict=True)])


@token_op(*methods("repeat"))
def repeat(x: Any, *counts: Any) -> Any:
    """Repeats dimensions of extent 1."""
    x = as_tokens(x)
    repeats = unpack_sizes(counts)
    dims = ((),) * (len(repeats) - x.ndim) + x.dims
    if any(count != 1 and extent(dim) != 1 for count, dim in zip(repeats, dims, strict=True)):
        raise UnsupportedError(
            f"`repeat` of {x!r}, {describe(x.dims)}, by {tuple(repeats)}: only dimensions of extent 1 can be."
        )
    return x * x.new_ones(repeats)


@token_op(*methods("repeat_interleave"))
def repeat_interleave(x: Any, repeats: int, dim: int | None = None) -> Any:
    """Repeats each entry of channels; or of a tensor that all windows of an image share, which is spread on the canvas."""
    x = as_tokens(x)
    if dim is None or not isinstance(repeats, int):
        raise UnsupportedError(
            f"`repeat_interleave` of {x!r} by {repeats!r} along {dim}: expected one number and one dimension."
        )
    dim = positive(x, dim)
    if site_atoms((x.dims[dim],)):
        return spread_on_canvas(x).repeat_interleave(repeats, dim)
    at = feature_dim(x, dim, "repeat_interleave")
    blocks = [block.repeat_interleave(repeats, at) for block in x.blocks]
    return make_tokens(x.space, blocks, replace_dim(x, dim, (channel(x.shape[dim] * repeats),)))
