"""Sites as channels, and tokens spread on the canvas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.tokens.layout import channel, extent, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, positive, to_dense


def spread_on_canvas(x: Any) -> Tensor:
    """Returns tokens as the dense tensor that the 2D network takes them for.

    Each place of the canvas has the mean of the tokens that stand there, and zero where there is none.
    """
    x = as_tokens(x)
    if isinstance(x, Tensor):
        return x
    at = next((i for i, dim in enumerate(x.dims) if any(atom.role == "t" for atom in dim)), None)
    if at is not None:
        prefix = x.dims[at][0].prefix
        return torch.cat([spread_on_canvas(part) for part in x.split([prefix, x.shape[at] - prefix], at)], at)
    at = next(i for i, dim in enumerate(x.dims) if any(atom.role in "yx" for atom in dim))
    return spread_on_canvas(densify(x, at))


def densify(x: TokenTensor, dim: int) -> Any:
    """Turns the sites along a dimension into channels: the mean of the tokens of a place, and zero where there is none.

    Space to depth, patch merging, and layers that mix all places of an image (MLP-Mixer's) ask for it. What is left without any
    other site is dense.
    """
    rows = x.rows
    dim = positive(x, dim)
    placed = site_atoms((x.dims[dim],))
    kept = site_atoms(x.dims[:dim] + x.dims[dim + 1 :])
    if rows.prefix or any(atom.role not in "yx" for atom in placed) or not any(atom.role == "b" for atom in kept):
        raise UnsupportedError(f"The sites along dimension {dim} of {x!r} cannot become channels.")
    samples = all(atom.role == "b" for atom in kept)
    coarse, index, new = (None, rows.batch, {}) if samples else rows.project(kept)
    count = x.batch_size if coarse is None else len(coarse)
    total = 1
    for atom in placed:
        index = index * atom.extent + rows.index(atom)
        total *= atom.extent
    values = segment(x.values, index, count * total, "mean").unflatten(0, (count, *(atom.extent for atom in placed)))
    flat = [(i, atom) for i, d in enumerate(x.dims) for atom in d]
    order, feature, place = [], 1 + len(placed), 1
    for i, atom in flat:
        if atom.is_channel:
            order.append(feature)
            feature += 1
        elif i == dim:
            order.append(place)
            place += 1
    values = values.permute(0, *order)
    dims = []
    for i, d in enumerate(x.dims):
        dims.append((channel(extent(d)),) if i == dim else tuple(new.get(a, a) for a in d))
    values = values.reshape(count, *(atom.extent for d in dims for atom in d if atom.is_channel))
    if coarse is None:
        return to_dense(values, "b", tuple(dims))
    return make_tokens(coarse, [values], tuple(dims))
