"""Parts of tokens: channels, extra tokens, and sites by their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.geometry import Level, Pair
from i2p_zoo.sparse.token_functions.token_dimensions import unsqueeze
from i2p_zoo.sparse.tokens.layout import Atom, Dim, channel, describe, site_atoms
from i2p_zoo.sparse.tokens.pair_operations import cut_pairs, write_pairs
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens, require_level
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, replace_dim, to_dense

# -- splitting ------------------------------------------------------------------------------------------------------------


def cut_lengths(x: Any, dim: int, lengths: Sequence[int]) -> tuple[Any, ...]:
    """Returns the parts of these lengths along a dimension."""
    x = as_tokens(x)
    at = positive(x, dim)
    if sum(lengths) != x.shape[at] or min(lengths, default=0) < 0:
        raise InvalidInputError(f"Splitting dimension {dim} of {x!r} into {list(lengths)}: expected a sum of {x.shape[at]}.")
    if _is_channels(x, at):  # at once, so that their gradients are joined, not added up
        pieces = zip(*(block.split(list(lengths), feature_dim(x, at, "split")) for block in x.blocks), strict=True)
        dims = [replace_dim(x, at, (channel(length),)) for length in lengths]
        return tuple(make_tokens(x.space, blocks, each) for blocks, each in zip(pieces, dims, strict=True))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(cut(x, at, start, start + length) for start, length in zip(starts, lengths, strict=True))


def _is_channels(x: TokenTensor, dim: int) -> bool:
    return len(x.dims[dim]) == 1 and x.dims[dim][0].is_channel


def _pieces(size: int, step: int) -> list[int]:
    return [min(step, size - start) for start in range(0, size, step)]


@token_op(*methods("chunk"))
def chunk(x: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """Parts of equal length, the last one shorter."""
    x = as_tokens(x)
    size = x.shape[positive(x, dim)]
    return cut_lengths(x, dim, _pieces(size, -(-size // chunks)))


@token_op(*methods("split", "split_with_sizes"))
def split(x: Any, split_size: Any = None, dim: int = 0, *, split_size_or_sections: Any = None) -> tuple[Any, ...]:
    """Parts of one length or of several."""
    x = as_tokens(x)
    length = split_size_or_sections if split_size is None else split_size
    return cut_lengths(x, dim, _pieces(x.shape[positive(x, dim)], length) if isinstance(length, int) else list(length))


@token_op(*methods("tensor_split"))
def tensor_split(x: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """A number of parts, the first ones longer by one where they must be, or parts that begin at indices."""
    x = as_tokens(x)
    size = x.shape[positive(x, dim)]
    if isinstance(indices_or_sections, int):
        low, longer = divmod(size, indices_or_sections)
        return cut_lengths(x, dim, [low + (i < longer) for i in range(indices_or_sections)])
    bounds = [0, *(min(int(i), size) for i in indices_or_sections), size]
    return cut_lengths(x, dim, [stop - start for start, stop in pairwise(bounds)])


@token_op(*methods("unbind"))
def unbind(x: Any, dim: int = 0) -> tuple[Any, ...]:
    """Every entry of a channel dimension."""
    x = as_tokens(x)
    at = positive(x, dim)
    if _is_channels(x, at):
        entries = zip(*(block.unbind(feature_dim(x, at, "unbind")) for block in x.blocks), strict=True)
        return tuple(make_tokens(x.space, blocks, replace_dim(x, at)) for blocks in entries)
    return tuple(select(x, at, i) for i in range(x.shape[at]))


# -- one entry, one slice -------------------------------------------------------------------------------------------------


@token_op(*methods("select"))
def select(x: Any, dim: int, index: int) -> Any:
    """One entry of a dimension, which goes: of channels, or a class token of each sample as a dense tensor."""
    x = as_tokens(x)
    if not isinstance(x, TokenTensor):
        return x.select(dim, index)
    dim = positive(x, dim)
    if not -x.shape[dim] <= index < x.shape[dim]:
        raise InvalidInputError(f"Entry {index} of dimension {dim} of {x!r}: it has {x.shape[dim]}.")
    index = index % x.shape[dim]
    if site_atoms((x.dims[dim],)) and x.dims[dim][0].role != "t":
        raise UnsupportedError(
            f"Entry {index} of dimension {dim} of {x!r}: one sample, row or column of an image cannot be told apart; got "
            f"{describe((x.dims[dim],))}."
        )
    part = cut(x, dim, index, index + 1)
    if isinstance(part, Tensor):
        return part.squeeze(dim)
    part = as_tokens(part)
    return change_layout(part, replace_dim(part, dim))


@token_op(*methods("narrow"))
def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """A slice of one dimension."""
    x = as_tokens(x)
    return cut(x, positive(x, dim), start, start + length)


def cut(x: Any, dim: int, start: int, stop: int, step: int = 1) -> Any:
    """Returns a slice of one dimension: channels, extra tokens or what stands behind them, or sites by their place.

    Raises:
        UnsupportedError: a part of the samples, of the sites' tokens or of a joined dimension.
    """
    x = as_tokens(x)
    if not isinstance(x, TokenTensor):
        return x[(slice(None),) * dim + (slice(start, stop, step),)]
    roles, size = x.dims[dim], x.shape[dim]
    if (start, stop, step) == (0, size, 1):
        return make_tokens(x.space, x.blocks, x.dims)
    if start == stop and site_atoms((roles,)) and all(a.role == "b" for a in site_atoms(replace_dim(x, dim))):
        return x.new_empty((*x.shape[:dim], 0, *x.shape[dim + 1 :]))
    if _is_channels(x, dim):
        index = (slice(None),) * feature_dim(x, dim, "slice") + (slice(start, stop, step),)
        blocks = [block[index] for block in x.blocks]
        return make_tokens(x.space, blocks, replace_dim(x, dim, (channel(len(range(start, stop, step))),)))
    if len(roles) == 1 and roles[0].role == "t" and step == 1:
        return cut_pairs(x, dim, start, stop) if x.is_pairs else _cut_tokens(x, dim, start, stop)
    if len(roles) == 1 and roles[0].is_whole_side and step == 1:
        return _cut_side(x, dim, start, stop)
    raise UnsupportedError(
        f"Slice {start}:{stop}{'' if step == 1 else f':{step}'} of dimension {dim} of {x!r}: channels, class tokens and a "
        f"whole side of the image can be cut; got {describe((roles,))}."
    )


def _cut_tokens(x: TokenTensor, dim: int, start: int, stop: int) -> Any:
    (token,) = x.dims[dim]
    count = x.batch_size * token.prefix
    extra, sites = x.values[:count].unflatten(0, (x.batch_size, token.prefix)), x.values[count:]
    if stop <= token.prefix:
        return to_dense(extra[:, start:stop], "bt", replace_dim(x, dim, (Atom("t", stop - start),)))
    left = token.prefix - start
    if stop != token.extent or left < 0:
        raise UnsupportedError(
            f"Tokens {start} to {stop} of {x!r}: its {token.prefix} class tokens can be cut off, the image's own stay together."
        )
    if not left:
        return make_tokens(x.rows.with_prefix(0), [sites], replace_dim(x, dim, token.inner))
    inner: Dim = (replace(token, extent=token.extent - start, prefix=left),)
    values = torch.cat([extra[:, start:].flatten(0, 1), sites])
    return make_tokens(x.rows.with_prefix(left), [values], replace_dim(x, dim, inner))


# -- crops ----------------------------------------------------------------------------------------------------------------


def _cut_side(x: TokenTensor, dim: int, start: int, stop: int) -> Any:
    """Crops a side of the image to start <= c < stop; only a plane with a border loses sites."""
    level = require_level(x, "a slice")
    if stop <= start:
        raise InvalidInputError(f"Slice {start}:{stop} of dimension {dim} of {x!r}: nothing is left of the image.")
    rows, side = x.rows, x.dims[dim][0]
    key = ("cut", side.role, start, stop)
    coords, kept = rows.remember(key, lambda: _crop_coords(rows, rows.column(side.role), start, stop))
    cropped = _crop_rows(rows, level, coords, side, start, stop)
    values = x.values if kept is None else x.values.index_select(0, kept)
    return make_tokens(cropped, [values], replace_dim(x, dim, (replace(side, extent=stop - start),)))


def _crop_coords(rows: TokenRows, column: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
    """Coordinates from `start` on along a column, and which rows stay; None where there is no border and all do."""
    coords, kept = rows.coords.clone(), None
    if rows.bordered:
        kept = ((coords[:, column] >= start) & (coords[:, column] < stop)).nonzero().squeeze(1)
        coords = coords[kept]
    coords[:, column] -= start
    return coords, kept


def _crop_rows(rows: TokenRows, level: Level, coords: Tensor, side: Atom, start: int, stop: int) -> TokenRows:
    """The rows of cropped sites."""
    canvas, shape = level.canvas, level.spatial_shape
    if shape is not None:
        z, y, x = (stop - start if 1 + axis == rows.column(side.role) else extent for axis, extent in enumerate(shape))
        shape = (z, y, x)
    if canvas is not None:
        canvas = (stop - start, canvas[1]) if side.role == "y" else (canvas[0], stop - start)
    level = replace(level, spatial_shape=shape, canvas=canvas)
    return TokenRows.of(coords, rows.cache, rows.batch_size, rows.axis, level=level)


def _subsample(x: TokenTensor, steps: Pair) -> Any:
    """Every s-th site, `x[:, ::s, ::s]`: a site of the coarser level reads the voxel nearest to its corner.

    On a plane that is the corner itself. A cloud may have no voxel there.
    """
    rows = x.rows
    coarse, index = rows.strided(steps)

    def make() -> Tensor:
        away = torch.zeros(len(rows.coords), dtype=torch.int64, device=rows.coords.device)
        for column, step in ((1 + rows.axis, steps[0]), (rows.column("y"), steps[0]), (rows.column("x"), steps[1])):
            away = away * step + rows.coords[:, column].long() % step
        ranked = away * len(away) + torch.arange(len(away), device=away.device)
        first = torch.full((len(coarse),), 2**62, device=away.device).scatter_reduce(0, index.rows, ranked, "amin")
        return first % len(away)

    nearest = rows.remember(("nearest", steps), make)
    sides = {"y": steps[0], "x": steps[1]}
    dims = tuple(tuple(replace(a, extent=-(-a.extent // sides[a.role])) if a.is_digit else a for a in dim) for dim in x.dims)
    return make_tokens(coarse, [x.values.index_select(0, nearest)], dims)


def _steps_of(x: TokenTensor, indices: list[Any]) -> Pair | None:
    """The steps (height, width) where an index takes every s-th site of both sides from the start; else None."""
    steps = {}
    for dim, part in zip(x.dims, indices, strict=False):
        if isinstance(part, slice) and part.step not in (None, 1) and len(dim) == 1 and dim[0].is_digit:
            if part.start not in (None, 0) or part.stop is not None or not dim[0].is_whole_side:
                return None
            steps[dim[0].role] = part.step
    return (steps["y"], steps["x"]) if len(steps) == 2 else None


# -- indexing -------------------------------------------------------------------------------------------------------------


@token_op(Tensor.__getitem__)
def getitem(x: Any, index: Any) -> Any:
    """Indexes dimension by dimension: numbers, slices, lists of channels, None and `...`."""
    x = as_tokens(x)
    if isinstance(x, Tensor):
        raise UnsupportedError(f"A dense tensor of shape {tuple(x.shape)} was indexed by tokens: expected numbers.")
    indices = _expand_ellipsis(x, index)
    out: Any = x
    steps = None if any(i is None for i in indices) else _steps_of(x, indices)
    if steps is not None:
        out = _subsample(x, steps)
        indices = [slice(None) if isinstance(i, slice) and i.step not in (None, 1) else i for i in indices]
    dim = 0
    for i in indices:
        out = _index_dim(out, dim, i)
        dim += not isinstance(i, int)
    return make_tokens(out.space, out.blocks, out.dims) if isinstance(out, TokenTensor) else out


def _expand_ellipsis(x: TokenTensor, index: Any) -> list[Any]:
    indices = list(index) if isinstance(index, tuple) else [index]
    count = sum(i is not None and i is not Ellipsis for i in indices)
    if count > x.ndim:
        raise InvalidInputError(f"Indexing {x!r} with {count} indices: it has {x.ndim} dimensions.")
    for at, i in enumerate(indices):
        if i is Ellipsis:
            indices[at : at + 1] = [slice(None)] * (x.ndim - count)
            break
    return indices


def _index_dim(x: Any, dim: int, index: Any) -> Any:
    """Applies one entry of an index to one dimension of a sparse tensor, tokens or what has become dense."""
    if index is None:
        return x.unsqueeze(dim) if isinstance(x, Tensor) else unsqueeze(x, dim)
    if isinstance(index, int):
        return select(x, dim, index)
    if isinstance(index, slice):
        return cut(x, dim, *index.indices(x.shape[dim]))
    if not isinstance(index, Tensor | list):
        raise UnsupportedError(f"Indexing dimension {dim} of {x!r} with {index!r}: expected a number, a slice or a list.")
    x = as_tokens(x)
    positions = torch.as_tensor(index, device=x.device)
    if positions.dtype == torch.bool or positions.ndim != 1:
        raise UnsupportedError(
            f"Indexing dimension {dim} of {x!r} with {positions.dtype} {tuple(positions.shape)}: expected a list."
        )
    if isinstance(x, Tensor):
        return x.index_select(dim, positions)
    at = feature_dim(x, dim, "index")
    positions = positions % x.shape[dim]
    blocks = [block.index_select(at, positions) for block in x.blocks]
    return make_tokens(x.space, blocks, replace_dim(x, dim, (channel(len(positions)),)))


@token_op(Tensor.__setitem__)
def setitem(x: Any, index: Any, value: Any) -> None:
    """Writes `x[:, :, p:, p:] = value` of pairs; the tensor itself is changed, as in torch."""
    write_pairs(x, index, as_tokens(value))
