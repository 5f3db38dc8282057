"""Between sparse tensors and tokens: one is the other wherever its dimensions say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import unique_rows
from i2p_zoo.sparse.geometry import Padding, Triple, insert_axis
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Atom, Dims, channel, channel_extents, extent, merge, regroup, resolve
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows, find_rows, has_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


def as_tokens(x: Any) -> Any:
    """A SparseTensor as tokens; anything else as it is."""
    if not isinstance(x, SparseTensor):
        return x
    if x.padding != Padding():
        x = materialize(x)
    rows = TokenRows.of(x.coords, x.cache, x.batch_size, x.plan.axis, site=site_of(x))
    height, width = (x.shape[dim] for dim in x.site_dims)
    b, y, x_ = (Atom("b", x.batch_size),), (Atom("y", height),), (Atom("x", width),)
    channels = [(channel(int(size)),) for size in x.features.shape[1:]]
    dims = (b, y, x_, *channels) if x.channels_last else (b, *channels, y, x_)
    return TokenTensor(rows, [x.features], dims)


def became_tokens(x: SparseTensor) -> bool:
    """Whether a forward that began with this tensor has taken any of its sites for tokens."""
    return has_tokens(x.cache)


def site_of(x: SparseTensor) -> SparseTensor:
    """The sparse tensor without its features: what rows need to go back to it."""
    return x.derive(x.features.new_empty((0, *x.features.shape[1:])), channels_last=False)


def as_sites(original: TokenTensor) -> Any:
    """Gives a SparseTensor back where the dimensions are (batch, channels, height, width) or (batch, height, width, channels)."""
    x = original
    if x.is_pairs or x.space.prefix or x.space.rolled != (0, 0) or x.space.site is None or len(x.dims) < 4:
        return x
    if not x.space.is_level:
        return x
    dims = list(x.dims)
    for i in range(len(dims) - 1):  # a top digit of extent 1 that stands before the rest of its side
        pair = merge(dims[i] + dims[i + 1])
        if extent(dims[i]) == 1 and len(dims[i]) == 1 and len(pair) == 1 and pair[0].role in "yx":
            dims[i], dims[i + 1] = (), pair
    if dims != list(x.dims):
        x = TokenTensor(x.space, x.blocks, tuple(dims))
    roles = ["".join(atom.role for atom in dim) for dim in x.dims]
    channels_last = roles[:3] == ["b", "y", "x"]
    at = 1 if channels_last else len(roles) - 2
    rest = roles[3:] if channels_last else roles[1:-2]
    if roles[0] != "b" or roles[at : at + 2] != ["y", "x"] or any(role not in ("c", "") for role in rest) or not rest:
        return original
    site = x.space.site
    y, x_ = x.dims[at][0], x.dims[at + 1][0]
    if not (y.place == x_.place == 1 and y.top and x_.top):
        return original
    height, width = (site.shape[dim] for dim in site.site_dims)
    if (y.extent, x_.extent) != (height, width):
        return original
    values = x.values
    if "" in rest:  # dimensions of extent 1 are feature dimensions of a SparseTensor
        values = values.reshape(len(values), *[extent(dim) for i, dim in enumerate(x.dims) if i not in (0, at, at + 1)])
    return site.derive(values, channels_last=channels_last)


def make_tokens(space: TokenRows | TokenPairs, blocks: Sequence[Tensor], dims: Dims) -> Any:
    """A ragged tensor, or a SparseTensor where it is one."""
    return as_sites(TokenTensor(space, blocks, dims))


def change_layout(x: TokenTensor, dims: Dims) -> Any:
    """Gives a tensor dimensions whose atoms are in the same order; feature dimensions are split and joined to fit."""
    features = channel_extents(dims)
    return make_tokens(x.space, [block.reshape(*block.shape[: x.lead], *features) for block in x.blocks], dims)


def reshape_to(x: TokenTensor, target: Sequence[int]) -> Any:
    """Reshapes to sizes, of which one may be -1."""
    return change_layout(x, regroup(x.dims, resolve(x.shape, target)))


def permute_to(x: TokenTensor, order: Sequence[int]) -> Any:
    """Permutes dimensions."""
    order = [d + x.ndim if d < 0 else d for d in order]
    if sorted(order) != list(range(x.ndim)):
        raise InvalidInputError(f"`permute` of {x!r} by {tuple(order)}: not a permutation of its dimensions.")
    numbers: list[list[int]] = []
    count = 0
    for dim in x.dims:
        mine = [count + i for i in range(sum(atom.is_channel for atom in dim))]
        numbers.append(mine)
        count += len(mine)
    features = [x.lead + i for d in order for i in numbers[d]]
    lead = list(range(x.lead))
    return make_tokens(x.space, [block.permute(*lead, *features) for block in x.blocks], tuple(x.dims[d] for d in order))


def materialize(x: SparseTensor) -> SparseTensor:
    """Makes sites of a padding that waits: zeros around a plane that has a border; a cloud has none."""
    pad = x.padding
    plain = x.derive(x.features, padding=Padding())
    if not pad.zeros:
        raise UnsupportedError(f"{x!r} behind {pad}: it is no padding by zeros.")
    tokens = as_tokens(plain)
    sides = {"y": pad.rows, "x": pad.columns}
    out = pad_tokens(tokens, sides)
    assert isinstance(out, SparseTensor)
    return out


def pad_tokens(x: TokenTensor, sides: dict[str, tuple[int, int]]) -> Any:
    rows = x.rows
    if rows.site is None or rows.rolled != (0, 0) or rows.prefix:
        raise UnsupportedError(f"`pad` of {x!r}: its rows are no sites of a level.")
    top, left = sides.get("y", (0, 0)), sides.get("x", (0, 0))
    coords, order = rows.remember(("padded", top, left), lambda: pad_coords(rows, top, left))
    padded = rows.share(("padded", top, left), lambda: pad_rows(rows, coords, top, left))
    values = x.values
    if order is not None:
        values = torch.cat([values, values.new_zeros((1, *values.shape[1:]))]).index_select(0, order)
    grown = {"y": sum(top), "x": sum(left)}
    dims = tuple(tuple(replace(a, extent=a.extent + grown.get(a.role, 0)) if a.role in "yx" else a for a in d) for d in x.dims)
    return make_tokens(padded, [values], dims)


def pad_coords(rows: TokenRows, top: tuple[int, int], left: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """The sites with a padding around them.

    Args:
        rows: sites of a level.
        top, left: how many pixels are added before and behind the height and the width.

    Returns:
        (M, 4) int32 coordinates, and (M,) int64 the row of each, that behind the last where there is none; None where all stay.
    """
    height, width = rows.plane
    coords = rows.coords
    if (top[0], left[0]) != (0, 0):
        coords = coords.clone()
        coords[:, 1 + height] += top[0]
        coords[:, 1 + width] += left[0]
    old = rows.site.spatial_shape if rows.site is not None else None
    if old is None:
        return coords, None
    shape = _padded_shape(rows, old, top, left)
    ranges = [torch.arange(n, dtype=coords.dtype, device=coords.device) for n in (rows.batch_size, *shape)]
    full = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 4)
    y, x = full[:, 1 + height], full[:, 1 + width]
    inside = (y >= top[0]) & (y < top[0] + old[height]) & (x >= left[0]) & (x < left[0] + old[width])
    padded, _ = unique_rows(torch.cat([coords, full[~inside]]))
    order = find_rows(coords, padded, missing=True)
    return padded.contiguous(), torch.where(order < 0, len(coords), order)


def pad_rows(rows: TokenRows, coords: Tensor, top: tuple[int, int], left: tuple[int, int]) -> TokenRows:
    """The rows of padded coordinates, which know where they came from."""
    site = rows.site
    assert site is not None
    shape = site.spatial_shape
    new = site.derive(
        site.features, coords=coords, spatial_shape=None if shape is None else _padded_shape(rows, shape, top, left)
    )
    if site.canvas is not None:
        new.canvas = (site.canvas[0] + sum(top), site.canvas[1] + sum(left))
    return TokenRows(coords, rows.cache, rows.batch_size, rows.axis, site=new, unpadded=(rows, top, left))


def _padded_shape(rows: TokenRows, shape: Triple, top: tuple[int, int], left: tuple[int, int]) -> Triple:
    grown = insert_axis((sum(top), sum(left)), 0, rows.axis)
    return (shape[0] + grown[0], shape[1] + grown[1], shape[2] + grown[2])


def require_sites(x: Any, name: str) -> SparseTensor:
    x = as_sites(x) if not isinstance(x, SparseTensor) else x
    if not isinstance(x, SparseTensor) or x.channels_last:
        raise UnsupportedError(f"`{name}` of {x!r}, which is {getattr(x, 'dims', '')}.")
    return x
