"""Joining tokens: their channels, or extra tokens before those of the sites."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.token_functions.token_dimensions import unsqueeze
from i2p_zoo.sparse.tokens.layout import Atom, Dim, channel, channel_extents, site_atoms
from i2p_zoo.sparse.tokens.position_tables import operands
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens
from i2p_zoo.sparse.tokens.token_rows import same_sites
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, from_dense, positive


@token_op(*methods("cat", "concat"))
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Joins channels, or puts dense tokens before those of the sites."""
    tensors = [as_tokens(t) for t in tensors]
    x = next(t for t in tensors if isinstance(t, TokenTensor))
    dim = positive(x, dim)
    if site_atoms((x.dims[dim],)):
        return _cat_tokens(tensors, dim)
    dims, parts = list(x.dims), []
    total = 0
    for part in tensors:
        if isinstance(part, Tensor):
            part = _as_tokens(x, part, dim)
        if part.space is not x.space:
            if x.is_pairs or part.is_pairs or not same_sites(x.rows, part.rows):
                raise UnsupportedError(f"`cat` of tensors on unlike sites, {x!r} and {part!r}.")
        total += part.shape[dim]
        parts.append(part if part.dims[dim] else change_layout(part, (*part.dims[:dim], (channel(1),), *part.dims[dim + 1 :])))
    at = feature_dim(parts[0], dim, "cat")
    dims[dim] = (channel(total),)
    blocks = [torch.cat(several, at) for several in zip(*(part.blocks for part in parts), strict=True)]
    return make_tokens(x.space, blocks, tuple(dims))


def _as_tokens(x: TokenTensor, table: Tensor, dim: int) -> TokenTensor:
    """A dense tensor over the canvas as tokens of `x`'s rows; its extent may differ along one channel dimension."""
    dims = (*x.dims[:dim], (channel(table.shape[dim]),), *x.dims[dim + 1 :])
    narrow = TokenTensor(
        x.space, [block.new_zeros((*block.shape[: x.lead], *channel_extents(dims))) for block in x.blocks], dims
    )
    _, ours, read, dims = operands(narrow, table, "cat")
    return TokenTensor(x.space, [a + b for a, b in zip(ours, read, strict=True)], dims)


def _cat_tokens(tensors: list[Any], dim: int) -> Any:
    at = next(i for i, t in enumerate(tensors) if isinstance(t, TokenTensor))
    x, before = tensors[at], tensors[:at]
    if len(tensors) != at + 1:
        raise UnsupportedError(f"`cat` of tokens {x!r} with others behind them.")
    token = x.dims[dim]
    old = token[0].prefix if token[0].role == "t" else 0
    inner = token[0].inner if token[0].role == "t" else token
    count = sum(part.shape[dim] for part in before)
    if not count:
        return x
    dims = lambda n: (*x.dims[:dim], (Atom("t", n),), *x.dims[dim + 1 :])  # noqa: E731
    extra = torch.cat([from_dense(part, dims(part.shape[dim]), "bt") for part in before], 1)
    batch = x.batch_size
    if old:
        extra = torch.cat([extra, x.values[: batch * old].unflatten(0, (batch, old))], 1)
    values = torch.cat([extra.flatten(0, 1).to(x.dtype), x.values[batch * old :]])
    prefix = old + count
    new: Dim = (Atom("t", prefix + prod(a.extent for a in inner), prefix=prefix, inner=inner),)
    return make_tokens(x.rows.changed(prefix=prefix), [values], (*x.dims[:dim], new, *x.dims[dim + 1 :]))


@token_op(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Stacks along a new channel dimension."""
    first = as_tokens(tensors[0])
    dim = dim + first.ndim + 1 if dim < 0 else dim
    return cat([unsqueeze(t, dim) if not isinstance(t, Tensor) else t.unsqueeze(dim) for t in tensors], dim)
