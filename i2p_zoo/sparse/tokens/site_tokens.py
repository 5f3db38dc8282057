"""Between sparse tensors and tokens: one is the other wherever its dimensions say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import inside, unique_rows
from i2p_zoo.sparse.geometry import Level, Padding, Pair, Triple, insert_axis
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Atom, Dim, Dims, channel, describe, extent, merge, regroup, resolve
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows, find_rows, has_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, split_features

SIDES = ["y", "x"]


def as_tokens(x: Any) -> Any:
    """Returns a SparseTensor as tokens, anything else as it is.

    Raises:
        UnsupportedError: a cloud without an extent, or behind a padding that is no zeros.
    """
    if not isinstance(x, SparseTensor):
        return x
    if x.padding != Padding():
        x = materialize(x)
    if x.level.extent is None:
        raise UnsupportedError(
            f"{x!r} has no height and width, which tokens need: give it a `spatial_shape`, or the network a canvas."
        )
    rows = TokenRows.of(x.coords, x.cache, x.batch_size, x.plan.axis, level=x.level)
    sides = [(Atom(role, size),) for role, size in zip(SIDES, x.level.extent, strict=True)]
    channels = [(channel(int(size)),) for size in x.features.shape[1:]]
    batch: Dim = (Atom("b", x.batch_size),)
    return TokenTensor(rows, [x.features], (batch, *sides, *channels) if x.channels_last else (batch, *channels, *sides))


def became_tokens(x: SparseTensor) -> bool:
    """Whether a forward that began with this tensor has taken any of its sites for tokens."""
    return has_tokens(x.cache)


def as_sites(x: TokenTensor) -> Any:
    """Returns a SparseTensor where dimensions are (batch, channels, height, width) or (batch, height, width, channels)."""
    if x.is_pairs or x.rows.prefix or x.rows.rolled != (0, 0) or x.rows.level is None or len(x.dims) < 4:
        return x
    if len(x.dims[0]) != 1 or x.dims[0][0].role != "b":
        return x
    dims = _join_tops(x.dims)
    roles = ["".join(atom.role for atom in dim) for dim in dims]
    channels_last = roles[1:3] == SIDES
    at = 1 if channels_last else len(roles) - 2
    rest = roles[3:] if channels_last else roles[1:-2]
    if roles[at : at + 2] != SIDES or any(role not in ("c", "") for role in rest) or not rest:
        return x
    sides = [dims[at][0], dims[at + 1][0]]
    if not all(side.is_whole_side for side in sides) or (sides[0].extent, sides[1].extent) != x.rows.level.extent:
        return x
    channels = [extent(dim) for i, dim in enumerate(dims) if i not in (0, at, at + 1)]  # those of extent 1 included
    values = x.values.reshape(len(x.values), *channels)
    out = SparseTensor.on_level(x.rows.level, values, x.rows.coords, x.rows.cache, x.rows.batch_size)
    out.channels_last = channels_last
    return out


def _join_tops(dims: Dims) -> Dims:
    """Gives a top digit of extent 1 that stands before the rest of its side back to it."""
    out = list(dims)
    for i, dim in enumerate(dims[:-1]):
        if len(dim) == 1 and dim[0].extent == 1 and dim[0].is_digit:
            joined = merge(dim + out[i + 1])
            if len(joined) == 1:
                out[i], out[i + 1] = (), joined
    return tuple(out)


def make_tokens(space: TokenRows | TokenPairs, blocks: Sequence[Tensor], dims: Dims) -> Any:
    """Returns tokens, or a SparseTensor where they are one; what a handler returns.

    Args:
        space, blocks, dims: as of `TokenTensor`.
    """
    return as_sites(TokenTensor(space, blocks, dims))


def change_layout(x: TokenTensor, dims: Dims) -> Any:
    """Gives a tensor dimensions whose atoms are in the same order; feature dimensions are split and joined to fit."""
    return make_tokens(x.space, split_features(x, dims), dims)


def reshape_to(x: TokenTensor, target: Sequence[int]) -> Any:
    """Reshapes to sizes, of which one may be -1; raises UnsupportedError where they part the image's sides."""
    return change_layout(x, regroup(x.dims, tuple(resolve(x.shape, target))))


def permute_to(x: TokenTensor, order: Sequence[int]) -> Any:
    """Permutes dimensions; raises InvalidInputError for what is no permutation of them."""
    order = [d + x.ndim if d < 0 else d for d in order]
    if sorted(order) != list(range(x.ndim)):
        raise InvalidInputError(
            f"`permute` of {x!r}, which has {x.ndim} dimensions, by {tuple(order)}: not a permutation of them."
        )
    numbers: list[list[int]] = []
    count = x.lead
    for dim in x.dims:
        channels = sum(atom.is_channel for atom in dim)
        numbers.append(list(range(count, count + channels)))
        count += channels
    features = [number for d in order for number in numbers[d]]
    return make_tokens(x.space, [b.permute(*range(x.lead), *features) for b in x.blocks], tuple(x.dims[d] for d in order))


def require_sites(x: Any, name: str) -> SparseTensor:
    """Returns a SparseTensor with channels before height and width; raises UnsupportedError for other tokens."""
    sites = as_sites(x) if isinstance(x, TokenTensor) else x
    if not isinstance(sites, SparseTensor) or sites.channels_last:
        raise UnsupportedError(
            f"`{name}` of {x!r}, seen as {tuple(x.shape)}: expected (batch, channels, height, width) of an image."
        )
    return sites


# -- padding --------------------------------------------------------------------------------------------------------------


def materialize(x: SparseTensor) -> SparseTensor:
    """Makes sites of a padding that waits: zeros around a plane that has a border; a cloud has none.

    Raises:
        UnsupportedError: the padding is of other values than zeros.
    """
    pads = x.padding
    before = (pads.rows[0], pads.columns[0], pads.rows[1], pads.columns[1])
    if max(before) > 0 and not pads.zeros:
        raise UnsupportedError(f"{x!r} behind {pads}: its values are not zeros, which alone can become tokens.")
    rows, columns = (tuple(min(pad, 0) for pad in side) for side in (pads.rows, pads.columns))
    cropped = x.derive(x.features, padding=Padding(rows=(rows[0], rows[1]), columns=(columns[0], columns[1]))).apply_padding()
    rows, columns = (tuple(max(pad, 0) for pad in side) for side in (pads.rows, pads.columns))
    padded: SparseTensor = pad_tokens(as_tokens(cropped), (rows[0], rows[1]), (columns[0], columns[1]))
    return padded


def pad_tokens(x: TokenTensor, top: Pair, left: Pair) -> Any:
    """Puts zeros around the image: sites where there is a border, and nothing around a cloud, which moves.

    Args:
        x: tokens of sites with a level; any layout of whole sides.
        top: how many rows before and behind.
        left: how many columns.

    Raises:
        UnsupportedError: rows that are no sites of a level.
    """
    level = require_level(x, "pad")
    rows = x.rows
    coords, order = rows.remember(("padded", top, left), lambda: _pad_coords(rows, level, top, left))
    padded = _pad_rows(rows, level, coords, top, left)
    values = x.values
    if order is not None:
        values = order.take(torch.cat([values, values.new_zeros((1, *values.shape[1:]))]))
    grown = {"y": sum(top), "x": sum(left)}
    dims = tuple(tuple(replace(a, extent=a.extent + grown[a.role]) if a.is_digit else a for a in dim) for dim in x.dims)
    return make_tokens(padded, [values], dims)


def require_level(x: TokenTensor, name: str) -> Level:
    """Returns the level of a tensor's sites; raises UnsupportedError where they are no sites of one."""
    rows = x.rows
    if rows.level is None or rows.rolled != (0, 0) or rows.prefix:
        raise UnsupportedError(
            f"`{name}` of {x!r}, {describe(x.dims)}: its tokens must be an image's sites, with no class tokens, not rolled "
            "and in no windows that overlap."
        )
    return rows.level


def _pad_coords(rows: TokenRows, level: Level, top: Pair, left: Pair) -> tuple[Tensor, RowIndex | None]:
    """The padded sites and, where there is a border, which row of the old ones each is, the number of rows for a zero."""
    shift = torch.tensor((0, *insert_axis((top[0], left[0]), 0, rows.axis)), dtype=rows.coords.dtype, device=rows.coords.device)
    moved = rows.coords if (top[0], left[0]) == (0, 0) else rows.coords + shift
    if level.spatial_shape is None:
        return moved, None
    grown = _grown(level.spatial_shape, rows.axis, top, left)
    coords = _fill_around(moved, level.spatial_shape, grown, shift, rows.batch_size)
    order = find_rows(moved, coords, missing=True)
    return coords, RowIndex(torch.where(order < 0, len(moved), order), len(moved) + 1)


def _pad_rows(rows: TokenRows, level: Level, coords: Tensor, top: Pair, left: Pair) -> TokenRows:
    """The rows of padded sites."""
    shape = None if level.spatial_shape is None else _grown(level.spatial_shape, rows.axis, top, left)
    canvas = level.canvas and (level.canvas[0] + sum(top), level.canvas[1] + sum(left))
    level = replace(level, spatial_shape=shape, canvas=canvas)
    return TokenRows.of(coords, rows.cache, rows.batch_size, rows.axis, level=level)


def _grown(shape: Triple, axis: int, top: Pair, left: Pair) -> Triple:
    z, y, x = insert_axis((sum(top), sum(left)), 0, axis)
    return (shape[0] + z, shape[1] + y, shape[2] + x)


def _fill_around(coords: Tensor, shape: Triple, grown: Triple, shift: Tensor, batch_size: int) -> Tensor:
    """The sites within a grown (or cropped) extent, with all those of it that were not in the old one."""
    ranges = [torch.arange(n, dtype=coords.dtype, device=coords.device) for n in (batch_size, *grown)]
    full = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 4)
    old = full - shift
    limit = torch.tensor((batch_size, *shape), dtype=coords.dtype, device=coords.device)
    outside = ((old < 0) | (old >= limit)).any(1)
    return unique_rows(torch.cat([coords[inside(coords, grown)], full[outside]]))[0].contiguous()
