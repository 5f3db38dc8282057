"""What moves sites or puts others around them: rolling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.geometry import Pair
from i2p_zoo.sparse.token_functions.token_joins import cat
from i2p_zoo.sparse.tokens.layout import channel, describe
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens, pad_tokens
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, replace_dim, split_features


@token_op(*methods("roll"))
def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    """Moves sites back, and back again; they do not wrap around, and stay apart from what 2D puts beside them."""
    x = as_tokens(x)
    if dims is None or x.is_pairs or x.rows.prefix:
        raise UnsupportedError(
            f"`roll` of {x!r} along {dims}: expected the height or the width of an image without class tokens."
        )
    shifts, dims = ([shifts], [dims]) if isinstance(shifts, int) else (list(shifts), list(dims))
    moves = [0, 0]
    for shift, dim in zip(shifts, dims, strict=True):
        roles = x.dims[positive(x, dim)]
        if len(roles) != 1 or not roles[0].is_whole_side:
            raise UnsupportedError(
                f"`roll` along dimension {dim} of {x!r}: expected the whole height or width; got {describe((roles,))}."
            )
        moves["yx".index(roles[0].role)] -= shift
    return make_tokens(_rolled(x.rows, (moves[0], moves[1])), x.blocks, x.dims)


def _rolled(rows: TokenRows, moves: Pair) -> TokenRows:
    """Rows whose sites were moved back by (height, width); the third axis moves as the height does."""
    home, offset = rows.home or rows, (rows.rolled[0] + moves[0], rows.rolled[1] + moves[1])
    if offset == (0, 0):
        return home

    def move() -> Tensor:
        coords = home.coords.clone()
        for column, step in ((home.column("y"), offset[0]), (1 + home.axis, offset[0]), (home.column("x"), offset[1])):
            coords[:, column] -= step
        return coords

    def make() -> TokenRows:
        return TokenRows(coords, home.cache, home.batch_size, home.axis, level=home.level, rolled=offset, home=home)

    key = ("rolled", offset)
    coords = home.remember(key, move)
    return home.share(key, make)


@token_op(*methods("pad"))
def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pads the image's sides with zeros, and channels and the front of tokens with any value."""
    x = as_tokens(x)
    value = 0.0 if value is None else value
    if mode != "constant":
        raise UnsupportedError(
            f"`pad` of {x!r} by {tuple(pad)} with mode={mode!r}: only mode='constant' has a meaning on tokens."
        )
    sides = {"y": (0, 0), "x": (0, 0)}
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        at = x.ndim - 1 - number
        roles = x.dims[at]
        if not (before or after):
            continue
        if all(atom.is_channel for atom in roles):
            x = _pad_channels(x, at, before, after, value)
        elif len(roles) > 1 or roles[0].role == "t":
            x = _pad_front(x, at, before, after, value)
        elif len(roles) == 1 and roles[0].is_whole_side and value == 0:
            sides[roles[0].role] = (before, after)
        else:
            raise UnsupportedError(
                f"`pad` of {x!r} by {tuple(pad)} with {value}: around an image only zeros; got {describe((roles,))}."
            )
    return (
        make_tokens(x.space, x.blocks, x.dims) if not any(map(any, sides.values())) else pad_tokens(x, sides["y"], sides["x"])
    )


def _pad_channels(x: TokenTensor, dim: int, before: int, after: int, value: float) -> TokenTensor:
    dims = replace_dim(x, dim, (channel(x.shape[dim] + before + after),))
    unit = replace_dim(x, dim, x.dims[dim] or (channel(1),))
    x = TokenTensor(x.space, split_features(x, unit), unit)
    at = feature_dim(x, dim, "pad")
    width = [0, 0] * (x.blocks[0].ndim - 1 - at) + [before, after]
    return TokenTensor(x.space, [F.pad(block, width, value=value) for block in x.blocks], dims)


def _pad_front(x: TokenTensor, dim: int, before: int, after: int, value: float) -> Any:
    if after or before < 0:
        raise UnsupportedError(f"`pad` of {x!r} by {(before, after)} along tokens: only before them, as class tokens stand.")
    shape = list(x.shape)
    shape[dim] = before
    return as_tokens(cat([x.new_full(shape, value), x], dim))
