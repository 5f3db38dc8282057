"""Joining tokens: their channels, or extra tokens before those of the sites."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import CoordinateMismatchError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.token_functions.token_dimensions import unsqueeze
from i2p_zoo.sparse.tokens.layout import Atom, Dim, channel, channel_extents, describe, site_atoms
from i2p_zoo.sparse.tokens.position_tables import operands
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_rows import same_sites
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, from_dense, positive, replace_dim, split_features


@token_op(*methods("cat", "concat"))
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Joins channels, or puts dense tokens before those of the sites."""
    parts = [as_tokens(tensor) for tensor in tensors]
    x = next(part for part in parts if isinstance(part, TokenTensor))
    dim = positive(x, dim)
    if site_atoms((x.dims[dim],)):
        return _cat_tokens(parts, dim)
    return _cat_channels(x, [_read_table(x, part, dim) if isinstance(part, Tensor) else part for part in parts], dim)


def _cat_channels(x: TokenTensor, parts: list[TokenTensor], dim: int) -> Any:
    blocks = []
    for part in parts:
        _check_alike(x, part, dim)
        dims = replace_dim(x, dim, (channel(part.shape[dim]),))
        blocks.append(TokenTensor(part.space, split_features(part, dims), dims))
    at = feature_dim(blocks[0], dim, "cat")
    joined = [torch.cat(several, at) for several in zip(*(part.blocks for part in blocks), strict=True)]
    return make_tokens(x.space, joined, replace_dim(x, dim, (channel(sum(part.shape[dim] for part in parts)),)))


def _check_alike(x: TokenTensor, part: TokenTensor, dim: int) -> None:
    """Raises CoordinateMismatchError unless a tensor has another's tokens in the same dimensions, all but the joined one."""
    same = part.space is x.space or not (x.is_pairs or part.is_pairs or not same_sites(x.rows, part.rows))
    layouts = [[[(a.role, a.place, a.extent) for a in d] for d in replace_dim(t, dim)] for t in (x, part)]
    if not same or part.ndim != x.ndim or layouts[0] != layouts[1] or site_atoms((part.dims[dim],)):
        raise CoordinateMismatchError(
            f"`cat` along dimension {dim} of {x!r} and {part!r}: expected the same tokens in the same dimensions but that one."
        )


def _read_table(x: TokenTensor, table: Tensor, dim: int) -> TokenTensor:
    """A dense tensor over the canvas as tokens of `x`'s rows; its extent may differ along the channel dimension."""
    dims = replace_dim(x, dim, (channel(table.shape[dim]),))
    empty = [block.new_zeros((*block.shape[: x.lead], *channel_extents(dims))) for block in x.blocks]
    space, zeros, values, dims = operands(TokenTensor(x.space, empty, dims), table, "cat")
    return TokenTensor(space, [zero + value for zero, value in zip(zeros, values, strict=True)], dims)


def _cat_tokens(parts: list[Any], dim: int) -> Any:
    """Dense tokens (B, tokens, C) of each sample before those of the sites, and before other dense ones there."""
    x, before = parts[-1], parts[:-1]
    if not isinstance(x, TokenTensor) or any(isinstance(part, TokenTensor) for part in before):
        raise UnsupportedError(
            f"`cat` along dimension {dim} of {', '.join(map(_describe, parts))}: class tokens stand before an image's tokens, "
            "never behind, and there is one image."
        )
    if x.is_pairs or x.dims[0] != (Atom("b", x.batch_size),):
        raise UnsupportedError(
            f"`cat` of class tokens and {x!r}: expected dimensions (batch, tokens, ...); got {describe(x.dims)}."
        )
    count = sum(part.shape[dim] for part in before)
    if not count:
        return x
    token = x.dims[dim]
    old, inner = (token[0].prefix, token[0].inner) if token[0].role == "t" else (0, token)
    extra = [from_dense(part, replace_dim(x, dim, (Atom("t", part.shape[dim]),)), "bt") for part in before if part.shape[dim]]
    first, sites = x.values[: x.batch_size * old], x.values[x.batch_size * old :]
    if old:
        extra.append(first.unflatten(0, (x.batch_size, old)))
    values = torch.cat([torch.cat(extra, 1).flatten(0, 1).to(x.dtype), sites])
    prefix = old + count
    new: Dim = (Atom("t", prefix + prod(a.extent for a in inner), prefix=prefix, inner=inner),)
    return make_tokens(x.rows.with_prefix(prefix), [values], replace_dim(x, dim, new))


def _describe(part: Any) -> str:
    return repr(part) if isinstance(part, TokenTensor) else f"a dense tensor of shape {tuple(part.shape)}"


@token_op(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Stacks along a new channel dimension."""
    rank = tensors[0].ndim + 1
    dim = dim + rank if dim < 0 else dim
    return cat([tensor.unsqueeze(dim) if isinstance(tensor, Tensor) else unsqueeze(tensor, dim) for tensor in tensors], dim)
