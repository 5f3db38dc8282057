"""What moves sites or puts others around them: rolling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tokens.layout import channel
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens, pad_tokens
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive


@token_op(*methods("roll"))
def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    """Moves sites back, and back again; they do not wrap around, and stay apart from what 2D puts beside them."""
    x = as_tokens(x)
    shifts, dims = ([shifts], [dims]) if isinstance(shifts, int) else (list(shifts), list(dims))
    moves = [0, 0]
    for shift, dim in zip(shifts, dims, strict=True):
        roles = x.dims[positive(x, dim)]
        if len(roles) != 1 or roles[0].role not in "yx" or roles[0].place != 1 or not roles[0].top:
            raise UnsupportedError(f"`roll` of {x!r} along {dim}: {roles}.")
        moves["yx".index(roles[0].role)] += -shift
    return make_tokens(rolled(x.rows, (moves[0], moves[1])), x.blocks, x.dims)


def rolled(rows: TokenRows, moves: tuple[int, int]) -> TokenRows:
    """Rows whose sites were moved back by (height, width); the third axis moves as the height does."""
    home = rows.home or rows
    offset = (rows.rolled[0] + moves[0], rows.rolled[1] + moves[1])
    if offset == (0, 0):
        return home

    def make() -> Tensor:
        coords = home.coords.clone()
        height, width = home.plane
        for column, move in ((height, offset[0]), (home.axis, offset[0]), (width, offset[1])):
            coords[:, 1 + column] -= move
        return coords

    key = ("rolled", offset)
    coords = home.remember(key, make)
    return home.share(
        key, lambda: TokenRows(coords, home.cache, home.batch_size, home.axis, rolled=offset, site=home.site, home=home)
    )


@token_op(*methods("pad"))
def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pads the image's sides with zeros, and channels."""
    x = as_tokens(x)
    if mode != "constant":
        raise UnsupportedError(f"`pad` of {x!r} with mode={mode!r}.")
    sides: dict[str, tuple[int, int]] = {}
    for number in range(len(pad) // 2):
        before, after = pad[2 * number], pad[2 * number + 1]
        at = x.ndim - 1 - number
        roles = x.dims[at]
        if not (before or after):
            continue
        if all(atom.is_channel for atom in roles):
            x = _pad_channels(x, at, before, after, value or 0.0)
        elif after == 0 and set("".join(atom.role for atom in roles)) <= set("tyx") and before > 0:
            shape = list(x.shape)
            shape[at] = before
            x = as_tokens(torch.cat([x.new_full(shape, value or 0.0), x], at))
        elif len(roles) == 1 and roles[0].role in "yx" and roles[0].place == 1 and roles[0].top and value in (None, 0):
            sides[roles[0].role] = (before, after)
        else:
            raise UnsupportedError(f"`pad` of {x!r} by {tuple(pad)} with {value}: {roles}.")
    return pad_tokens(x, sides) if sides else make_tokens(x.space, x.blocks, x.dims)


def _pad_channels(x: TokenTensor, dim: int, before: int, after: int, value: float) -> TokenTensor:
    at = feature_dim(x, dim, "pad")
    width = [0, 0] * (x.blocks[0].ndim - 1 - at) + [before, after]
    blocks = [torch.nn.functional.pad(block, width, value=value) for block in x.blocks]
    return TokenTensor(x.space, blocks, (*x.dims[:dim], (channel(x.shape[dim] + before + after),), *x.dims[dim + 1 :]))
