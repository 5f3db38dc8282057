"""What pairs alone have: reductions over queries or keys, cutting extra tokens off, and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.tokens.layout import Atom, Dim, Dims, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import make_tokens
from i2p_zoo.sparse.tokens.token_groups import GroupBlock, fill
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor

QUERIES, KEYS = 1, 2  # dimensions of a block of pairs (G, queries, keys, ...)


def pair_axis(x: TokenTensor, dim: Dim, name: str) -> int:
    """Returns which dimension of its blocks a dimension of pairs is: QUERIES, all those of a group, or KEYS.

    Raises:
        UnsupportedError: it is neither; `name` is the function that asks.
    """
    sites = [atom for atom in dim if not atom.is_channel]
    sides = {atom.side for atom in sites}
    everything = [atom for atom in site_atoms(x.dims) if atom.side in sides and atom not in x.space.shared]
    if len(sides) != 1 or set(sites) != set(everything):
        raise UnsupportedError(f"`{name}` over {dim} of {x!r}: expected all queries of a group or all its keys.")
    return KEYS if sides == {1} else QUERIES


def softmax_pairs(x: TokenTensor, dim: int, dtype: torch.dtype | None = None) -> TokenTensor:
    """Normalises over the keys (or the queries) of each group, the dimension `dim`."""
    axis = pair_axis(x, x.dims[dim], "softmax")
    other = QUERIES + KEYS - axis
    blocks = []
    for block, part in zip(x.blocks, _parts(x.space, axis), strict=True):
        block = fill(block, part.filled, -torch.inf, axis)
        # products leave the features first in memory, where the normalised dimension is quick to walk through as the last
        order = (0, *range(3, block.ndim), other, axis)
        back = [order.index(i) for i in range(block.ndim)]
        blocks.append(block.permute(order).softmax(-1, dtype=dtype).permute(back))
    return TokenTensor(x.space, blocks, x.dims)


def reduce_pairs(x: TokenTensor, removed: list[Atom], dims: Dims, reduction: str) -> TokenTensor:
    """Sums, averages or takes the largest over the keys (or the queries) of each group.

    Args:
        x: pairs.
        removed: the atoms of these keys or queries.
        dims: those of `x` without them.
        reduction: "sum", "mean" or "amax".

    Returns:
        Tokens on the rows of the others.
    """
    axis = pair_axis(x, tuple(removed), reduction)
    blocks = [_reduce(block, part, axis, reduction) for block, part in zip(x.blocks, _parts(x.space, axis), strict=True)]
    rows, groups = (x.space.queries, x.space.query_blocks) if axis == KEYS else (x.space.keys, x.space.key_blocks)
    dims = tuple(tuple(replace(atom, side=0) for atom in dim) for dim in dims)
    return TokenTensor(rows, [groups.scatter(blocks)], dims)


def _reduce(block: Tensor, part: GroupBlock, axis: int, reduction: str) -> Tensor:
    if reduction == "amax":
        return fill(block, part.filled, -torch.inf, axis).amax(axis)
    total = fill(block, part.filled, 0, axis).sum(axis)
    if reduction == "sum":
        return total
    if part.filled is None:
        return total / block.shape[axis]
    return total / part.filled.sum(1).view(-1, *[1] * (total.ndim - 1))


def _parts(space: TokenPairs, axis: int) -> Sequence[GroupBlock]:
    return (space.key_blocks if axis == KEYS else space.query_blocks).parts


def cut_pairs(x: TokenTensor, dim: int, start: int, stop: int) -> Any:
    """Drops the extra tokens before `start` from the queries or the keys, whichever a dimension is.

    Raises:
        UnsupportedError: tokens of sites would be dropped.
    """
    (token,) = x.dims[dim]
    if stop != token.extent or start > token.prefix:
        raise UnsupportedError(f"Tokens {start} to {stop} of {x!r}: expected all from one of the {token.prefix} extra ones on.")
    left = token.prefix - start
    space: TokenPairs = x.space
    queries, keys = space.queries, space.keys
    if token.side:
        keys = keys.with_prefix(left)
    else:
        queries = queries.with_prefix(left)
    pairs = TokenPairs.of(queries, keys, space.shared, space.shared)
    blocks = [block[:, :, start:] if token.side else block[:, start:] for block in x.blocks]
    inner: Dim = tuple(replace(atom, side=token.side) for atom in token.inner)
    if left:
        inner = (replace(token, extent=token.extent - start, prefix=left),)
    return make_tokens(pairs, blocks, (*x.dims[:dim], inner, *x.dims[dim + 1 :]))


def write_pairs(x: Any, index: Any, value: Any) -> None:
    """Writes pairs of the last queries and keys into a tensor of pairs, `x[:, :, p:, p:] = value`.

    Raises:
        UnsupportedError: anything else is written, or at any other index.
    """
    if not isinstance(x, TokenTensor) or not x.is_pairs or not isinstance(value, TokenTensor):
        raise UnsupportedError(f"Writing {value!r} into {x!r} at {index!r}: expected pairs of tokens, and more of them.")
    starts = [0, 0]
    for dim, part in zip(x.dims, index, strict=False):
        if not isinstance(part, slice) or part.stop is not None or part.step is not None:
            raise UnsupportedError(f"Writing into {x!r} at {index!r}: expected slices from some token to the last.")
        if part.start:
            starts[dim[0].side] = part.start
    blocks = []
    for block, new in zip(x.blocks, value.blocks, strict=True):
        block = block.clone()
        block[:, starts[0] :, starts[1] :] = new
        blocks.append(block)
    x.blocks = tuple(blocks)
