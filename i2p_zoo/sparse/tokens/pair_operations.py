"""What pairs alone have: reductions over queries or keys, cutting extra tokens off, and writing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.tokens.layout import Atom, Dim, Dims, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import make_tokens
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


def pair_axis(x: TokenTensor, dim: Dim, name: str) -> int:
    """1 or 2: the axis of a block that a dimension is, all queries of a group or all keys."""
    sites = [atom for atom in dim if not atom.is_channel]
    sides = {atom.side for atom in sites}
    everything = [atom for atom in site_atoms(x.dims) if atom.side in sides and atom not in x.space.shared]
    if len(sides) != 1 or set(sites) != set(everything):
        raise UnsupportedError(f"`{name}` over {dim} of {x!r}: neither all queries of a group nor all keys.")
    return 2 if sides == {1} else 1


def reduce_pairs(x: TokenTensor, removed: list[Atom], dims: Dims, reduction: str) -> Any:
    """Sums, averages or takes the largest over the keys (or the queries) of each group."""
    axis = pair_axis(x, tuple(removed), reduction)
    blocks = [getattr(torch, reduction)(block, axis) for block in x.blocks]
    rows, groups = (x.space.queries, x.space.query_blocks) if axis == 2 else (x.space.keys, x.space.key_blocks)
    dims = tuple(tuple(replace(atom, side=0) for atom in dim) for dim in dims)
    return TokenTensor(rows, [groups.scatter(blocks)], dims)


def cut_pairs(x: TokenTensor, dim: int, start: int, stop: int) -> Any:
    """Drops extra tokens from the queries or the keys."""
    (token,) = x.dims[dim]
    if stop != token.extent or start > token.prefix:
        raise UnsupportedError(f"Tokens {start} to {stop} of {x!r}.")
    left = token.prefix - start
    space: TokenPairs = x.space
    queries, keys = space.queries, space.keys
    if token.side:
        keys = keys.changed(prefix=left)
    else:
        queries = queries.changed(prefix=left)
    pairs = TokenPairs.of(queries, keys, space.shared, space.shared)
    blocks = [block[:, :, start:] if token.side else block[:, start:] for block in x.blocks]
    inner: Dim = tuple(replace(atom, side=token.side) for atom in token.inner)
    if left:
        inner = (replace(token, extent=token.extent - start, prefix=left),)
    return make_tokens(pairs, blocks, (*x.dims[:dim], inner, *x.dims[dim + 1 :]))


def write_pairs(x: Any, index: Any, value: Any) -> None:
    """Writes pairs of the last queries and keys into a tensor of pairs."""
    if not isinstance(x, TokenTensor) or not x.is_pairs or not isinstance(value, TokenTensor):
        raise UnsupportedError(f"Writing {value!r} into {x!r} at {index!r}.")
    starts = [0, 0]
    for dim, part in zip(x.dims, index, strict=False):
        if not isinstance(part, slice) or part.stop is not None or part.step is not None:
            raise UnsupportedError(f"Writing into {x!r} at {index!r}.")
        if part.start:
            starts[dim[0].side] = part.start
    blocks = []
    for block, new in zip(x.blocks, value.blocks, strict=True):
        block = block.clone()
        block[:, starts[0] :, starts[1] :] = new
        blocks.append(block)
    x.blocks = tuple(blocks)
