"""Two operands of one function: which values of the other belong to each token, or pair, of a tensor."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import CoordinateMismatchError, UnsupportedError
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.layout import Atom, Dim, Dims, atoms, channel, describe, extent, regroup, sizes
from i2p_zoo.sparse.tokens.token_pairs import PairOffsets, TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows, find_rows, same_sites
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


def pad_dims(dims: Dims, count: int) -> Dims:
    """Dimensions of extent 1 in front, as broadcasting adds them."""
    return ((),) * (count - len(dims)) + dims


def read_table(x: TokenTensor, table: Tensor, dims: Dims) -> list[Tensor]:
    """A dense tensor's values for each row of `x`.

    Args:
        x: tokens or pairs.
        table: dense, as many dimensions as `dims`; each of extent 1 or of that dimension's.
        dims: of `x`, or `x`'s with channels added.

    Returns:
        For each block a tensor that broadcasts against feature dimensions of all channels of `dims`.

    Raises:
        UnsupportedError: the table has another extent.
    """
    reader = TableReader(x.space, table, dims)
    return [reader.read(i) for i in range(len(x.blocks))]


class TableReader:
    """Reads a dense tensor at the places of rows or pairs, block by block, and of pairs for some of the queries alone."""

    def __init__(self, space: TokenRows | TokenPairs, table: Tensor, dims: Dims) -> None:
        """Prepares a table.

        Args:
            space: rows or pairs.
            table: dense, as many dimensions as `dims`; each of extent 1 or of that dimension's.
            dims: of values on `space`, or these with channels added.

        Raises:
            UnsupportedError: the table has another extent.
        """
        split: list[int] = []
        flat = atoms(dims)
        for size, dim in zip(table.shape, dims, strict=True):
            if size not in (1, extent(dim)):
                raise UnsupportedError(
                    f"Expected a dense tensor of shape {sizes(dims)}, or 1 along some; got {tuple(table.shape)}."
                )
            split += [atom.extent if size == extent(dim) else 1 for atom in dim]
        looked_up = [i for i, atom in enumerate(flat) if not atom.is_channel and split[i] > 1]
        gone = [i for i, atom in enumerate(flat) if not atom.is_channel and split[i] == 1]
        channels = [i for i, atom in enumerate(flat) if atom.is_channel]
        features = [split[i] for i in channels]
        table = table.reshape(split).permute(*looked_up, *channels, *gone)
        self._offsets: Any = space.offsets([flat[i] for i in looked_up]) if looked_up else None
        self._table = table.reshape(*[-1] if looked_up else [1] * space.lead, *features).contiguous()

    def read(self, block: int, queries: slice = slice(None)) -> Tensor:
        """Returns (rows, ...), of pairs (G, queries, keys, ...), with 1 where all are alike."""
        if self._offsets is None:
            return self._table
        offsets = self._offsets[block]
        if isinstance(offsets, PairOffsets):
            offsets = offsets.queries[:, queries] + offsets.keys
        return read_flat(self._table, offsets)


def read_flat(table: Tensor, index: Tensor) -> Tensor:
    """Returns `table[index]` along dimension 0."""
    if prod(table.shape[1:]) == 1:  # many times quicker than rows of one value
        return RowIndex(index.flatten(), len(table)).take(table.flatten()).view(*index.shape, *table.shape[1:])
    values: Tensor = RowIndex(index.flatten(), len(table)).take(table.contiguous()).unflatten(0, index.shape)
    return values


def _read_positions(x: TokenTensor, table: Tensor, dims: Dims, name: str) -> list[Tensor]:
    """A dense tensor's values for each row, as `read_table`; one that is added by height has a say in the third axis too.

    There a token at (z, y, x) gets T[y, x] + T[z, x] - T[m, x], m the middle of its sample: on a plane T[y, x] alone. What is
    multiplied (rotations) and what is of pairs (biases) is the same at every z.
    """
    values = read_table(x, table, dims)
    if name not in ("add", "add_") or x.is_pairs or x.rows.is_plane:
        return values
    sides = [
        atom
        for size, dim in zip(table.shape, dims, strict=True)
        for each in (dim if size > 1 else ())
        for atom in (each.inner if each.role == "t" else (each,))
        if atom.role == "y"
    ]
    if len(sides) != 1 or sides[0].place != 1 or not sides[0].top or x.rows.rolled != (0, 0):
        return values
    up, middle = (read_table(TokenTensor(rows, x.blocks, x.dims), table, dims)[0] for rows in x.rows.upright(sides[0].extent))
    return [values[0] + (up - middle)]


def widen(x: TokenTensor, shape: tuple[int, ...]) -> tuple[TokenTensor, Dims]:
    """Returns `x` with leading dimensions to match a shape, and its dimensions with new channels where the shape is longer."""
    count = max(x.ndim, len(shape))
    dims = pad_dims(x.dims, count)
    padded = (1,) * (count - len(shape)) + tuple(shape)
    out: list[Dim] = []
    for dim, size in zip(dims, padded, strict=True):
        grows = extent(dim) == 1 and size > 1
        out.append((*(a for a in dim if not a.is_channel), channel(size)) if grows else dim)
    return TokenTensor(x.space, x.blocks, dims), tuple(out)


def operands(x: TokenTensor, other: Any, name: str) -> tuple[Any, list[Tensor], list[Any], Dims]:
    """Brings two operands together.

    Returns:
        The space of the result, the blocks of `x` and of the other that broadcast against each other, and the dimensions.
    """
    if not isinstance(other, Tensor | TokenTensor) or (isinstance(other, Tensor) and other.ndim == 0):
        return x.space, list(x.blocks), [other] * len(x.blocks), x.dims
    if isinstance(other, Tensor):
        x, dims = widen(x, tuple(other.shape))
        table = other.reshape((1,) * (len(dims) - other.ndim) + tuple(other.shape))
        values = _reshape_features(list(x.blocks), x.lead, x.dims, dims)
        return x.space, values, _read_positions(x, table, dims, name), dims
    return _two_tokens(x, other, name)


def _reshape_features(blocks: list[Tensor], lead: int, dims: Dims, target: Dims) -> list[Tensor]:
    """Gives values of some dimensions the feature dimensions of others, 1 where they have no such channels.

    Args:
        blocks: (rows or pairs, channels of `dims`).
        lead: how many dimensions stand before the channels.
        dims: of the values.
        target: of the result, which the values broadcast to.

    Raises:
        UnsupportedError: channels of the values that the result lacks.
    """
    features: list[int] = []
    for mine, theirs in zip(dims, target, strict=True):
        have = [atom.extent for atom in mine if atom.is_channel]
        want = sum(atom.is_channel for atom in theirs)
        if len(have) > want and any(size != 1 for size in have):
            raise UnsupportedError(f"Values of {describe(dims)} beside {describe(target)}: expected no channels of their own.")
        features += have if len(have) == want else [1] * want
    return [block.reshape(*block.shape[:lead], *features) for block in blocks]


def _two_tokens(first: TokenTensor, second: TokenTensor, name: str) -> tuple[Any, list[Tensor], list[Tensor], Dims]:
    """As `operands`, of two tensors of tokens or pairs."""
    count = max(first.ndim, second.ndim)
    x, other = (TokenTensor(t.space, t.blocks, pad_dims(t.dims, count)) for t in (first, second))
    if x.is_pairs != other.is_pairs:
        pairs, tokens = (x, other) if x.is_pairs else (other, x)
        read, read_dims = on_pairs(pairs.space, pairs.dims, tokens, name)
        sides = [(t.dims, list(t.blocks)) if t is pairs else (read_dims, read) for t in (x, other)]
        dims, space = _broadcast_dims(sides[0][0], sides[1][0], name), pairs.space
    else:
        x, other = _read_digits(x, other), _read_digits(other, x)
        dims = _broadcast_dims(x.dims, other.dims, name)
        _check_same_roles(x, other, name)
        space, ours, theirs = _common_rows(x, other, name)
        sides = [(x.dims, ours), (other.dims, theirs)]
    shaped = [_reshape_features(blocks, space.lead, side, dims) for side, blocks in sides]
    return space, shaped[0], shaped[1], dims


def _broadcast_dims(first: Dims, second: Dims, name: str) -> Dims:
    """The dimensions of two tensors together: the sites of both, and the channels of the longer."""
    dims: list[Dim] = []
    for mine, theirs in zip(first, second, strict=True):
        if extent(mine) != extent(theirs) and 1 not in (extent(mine), extent(theirs)):
            raise UnsupportedError(f"`{name}` of shapes {sizes(first)} and {sizes(second)}.")
        sites = [a for a in mine if not a.is_channel] or [a for a in theirs if not a.is_channel]
        is_mixed = any(a.is_channel for a in mine) and any(not a.is_channel for a in mine)
        if is_mixed or (sites and any(a.is_channel for a in mine + theirs) and extent(mine) > 1 and extent(theirs) > 1):
            dims.append(mine)
        elif sites:
            dims.append(tuple(sites))
        else:
            dims.append(mine if extent(mine) >= extent(theirs) and mine else theirs)
    return tuple(dims)


def _check_same_roles(x: TokenTensor, other: TokenTensor, name: str) -> None:
    """Raises CoordinateMismatchError where one has height in a dimension and the other width, or another digit of it."""
    same = x.space is other.space
    for mine, theirs in zip(x.dims, other.dims, strict=True):
        sites = [[a for a in dim if not a.is_channel and a.extent > 1] for dim in (mine, theirs)]
        digits = [[(a.role, a.side, a.place if same else 0) for a in dim] for dim in sites]
        if all(digits) and digits[0] != digits[1]:
            raise CoordinateMismatchError(
                f"`{name}` of {x!r} and {other!r}, whose dimensions are not of the same sides of the image."
            )


def _read_digits(coarse: TokenTensor, fine: TokenTensor) -> TokenTensor:
    """Reads channels of a tensor by the digits of another's sites, where a dimension is channels in one and sites in the other.

    A window's places are such channels, as depth to space makes them. The result is on the finer rows; without such a dimension
    it is the tensor as it is.
    """
    numbers, count = [], 0
    for dim in coarse.dims:
        counted = []
        for atom in dim:
            counted.append(count)  # of a channel; of a site's atom not used
            count += atom.is_channel
        numbers.append(counted)
    lone = {a.role for a in atoms(coarse.dims) if _numbers_one_window(a) and a not in atoms(fine.dims)}
    shared: list[Atom] = []
    reads: list[tuple[int, Dim]] = []
    dims: list[Dim] = []
    for i, (theirs, mine) in enumerate(zip(coarse.dims, fine.dims, strict=True)):
        has_sites, has_channels = any(not a.is_channel for a in mine), any(a.is_channel for a in theirs)
        if has_sites and has_channels and extent(theirs) == extent(mine) > 1 and not any(a.is_channel for a in mine):
            kept = [(a, n) for a, n in zip(theirs, numbers[i], strict=True) if not (_numbers_one_window(a) and a.role in lone)]
            parts = regroup((mine,), tuple(atom.extent for atom, _ in kept))
            for part, (atom, number) in zip(parts, kept, strict=True):
                if atom.is_channel:
                    windows = [a.split(1)[0] for a in part if a.top and a.role in lone]
                    shared += windows
                    reads.append((number, tuple(a.split(1)[1] if a.top and a.role in lone else a for a in part)))
                else:
                    shared += part
            dims.append(mine)
            continue
        if any(not a.is_channel for a in theirs):
            shared += [a for a in mine if not a.is_channel]
        dims.append(theirs if not any(not a.is_channel for a in theirs) else tuple(a for a in mine if not a.is_channel))
    if not reads:
        return coarse
    rows = fine.rows
    compact, _ = rows.compact(shared)
    values = RowIndex(find_rows(coarse.rows.coords, compact), len(coarse.values)).take(coarse.values)
    taken = [number for number, _ in reads]
    rest = [i for i in range(values.ndim - 1) if i not in taken]
    values = values.permute(0, *(1 + i for i in taken), *(1 + i for i in rest))
    index = [torch.arange(len(values), device=values.device)]
    for _, part in reads:
        place = torch.zeros_like(rows.batch)
        for atom in part:
            place = place * atom.extent + rows.index(atom)
        index.append(place)
    return TokenTensor(rows, [values[tuple(index)]], tuple(dims))


def _numbers_one_window(atom: Atom) -> bool:
    """Whether an atom is a top digit of extent 1: the number of an image's one window, of which a larger cloud has several."""
    return atom.role in "yx" and atom.top and atom.extent == 1


def _common_rows(x: TokenTensor, other: TokenTensor, name: str) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The blocks of both on the rows of the finer one."""
    if x.space is other.space:
        return x.space, list(x.blocks), list(other.blocks)
    if isinstance(x.space, TokenPairs) and isinstance(other.space, TokenPairs):
        raise CoordinateMismatchError(f"`{name}` of pairs of unlike rows.")
    if same_sites(x.space, other.space):
        return x.space, list(x.blocks), list(other.blocks)
    fine, coarse = (x, other) if len(x.space) >= len(other.space) else (other, x)
    spread = [RowIndex(_parents(fine, coarse, name), len(coarse.values)).take(coarse.values)]
    return (fine.space, list(x.blocks), spread) if fine is x else (fine.space, spread, list(other.blocks))


def _parents(fine: TokenTensor, coarse: TokenTensor, name: str) -> Tensor:
    """(rows,) int64: the row of a tensor with fewer site atoms that each row of another belongs to, dimension by dimension."""
    shared = []
    for mine, theirs in zip(fine.dims, coarse.dims, strict=True):
        if any(not a.is_channel for a in theirs):
            ours = [a for a in mine if not a.is_channel]
            if [a.extent for a in ours] != [a.extent for a in theirs if not a.is_channel]:
                raise CoordinateMismatchError(f"`{name}` of {fine!r} and {coarse!r}, which stand on unlike sites.")
            shared += ours
    compact, _ = fine.rows.compact(shared)
    return find_rows(coarse.rows.coords, compact)


def on_pairs(space: TokenPairs, dims: Dims, other: TokenTensor, name: str) -> tuple[list[Tensor], Dims]:
    """The values of tokens for the pairs that they are the query or the key of.

    Where the pairs have keys along a dimension and the tokens as many channels, those are a table over the canvas too: the
    query's bias towards every place (decomposed relative positions).

    Returns:
        A (G, queries or 1, keys or 1, ...) for each size of group, and the other's dimensions, read channels now sites.
    """
    sides, read, numbers, count = set(), [], [], 0
    new: list[Dim] = []
    for mine, theirs in zip(dims, other.dims, strict=True):
        ours = [atom for atom in mine if not atom.is_channel and atom not in space.shared]
        channels = [count + i for i in range(sum(atom.is_channel for atom in theirs))]
        count += len(channels)
        if any(not atom.is_channel for atom in theirs):
            sides |= {atom.side for atom in ours}
        elif ours and all(atom.side for atom in ours) and extent(theirs) == extent(mine) > 1:
            read.append((channels, ours))
            new.append(mine)
            continue
        numbers += channels
        new.append(theirs)
    if sides <= {0} and same_sites(other.rows, space.queries):
        values = other.values
        if not read:
            return [block.unsqueeze(2) for block in space.query_blocks.gather(values)], tuple(new)
        order = [i for channels, _ in read for i in channels]
        values = values.permute(0, *(1 + i for i in order), *(1 + i for i in numbers))
        values = values.reshape(
            len(values), *(prod(a.extent for a in ours) for _, ours in read), *values.shape[1 + len(order) :]
        )
        places = []
        for _, ours in read:
            place: Tensor = torch.zeros_like(space.keys.batch)
            for atom in ours:
                place = place * atom.extent + space.keys.index(atom)
            places.append(space.key_blocks.gather(place))
        out = []
        for i, block in enumerate(space.query_blocks.gather(values)):
            groups = torch.arange(block.shape[0], device=block.device)[:, None, None]
            queries = torch.arange(block.shape[1], device=block.device)[None, :, None]
            number = groups * block.shape[1] + queries
            for at, extent_of_place in zip(places, block.shape[2:], strict=False):
                number = number * extent_of_place + at[i][:, None, :]
            out.append(read_flat(block.flatten(0, 1 + len(places)), number))
        return out, tuple(new)
    if sides == {1} and same_sites(other.rows, space.keys) and not read:
        return [block.unsqueeze(1) for block in space.key_blocks.gather(other.values)], tuple(new)
    raise CoordinateMismatchError(f"`{name}` of pairs {describe(dims)} and {other!r}: expected their queries or their keys.")
