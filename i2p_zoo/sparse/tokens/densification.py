"""Sites as channels, and tokens spread on the canvas."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.layout import Atom, Dims, atoms, channel, channel_extents, extent, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, positive, to_dense


def spread_on_canvas(x: Any) -> Tensor:
    """Returns tokens as the dense tensor that the 2D network takes them for, differentiable.

    Each place of the canvas has the mean of the tokens that stand there, and zero where there is none.

    Args:
        x: a TokenTensor or a SparseTensor with an extent; a dense tensor is returned as it is.

    Raises:
        UnsupportedError: pairs, or a cloud without an extent.
    """
    x = as_tokens(x)
    if isinstance(x, Tensor):
        return x
    for at, dim in enumerate(x.dims):
        if any(atom.role == "t" for atom in dim):
            prefix = dim[0].prefix
            return torch.cat([spread_on_canvas(part) for part in x.split([prefix, x.shape[at] - prefix], at)], at)
    placed = [atom for atom in site_atoms(x.dims) if atom.role != "b"]
    values = _mean_at_places(x, x.rows.batch_index, placed)  # (B, places, features)
    order, feature = [], 1 + len(placed)
    for atom in atoms(x.dims):
        order.append(feature if atom.is_channel else 0 if atom.role == "b" else 1 + placed.index(atom))
        feature += atom.is_channel
    return values.permute(order).reshape(x.shape)


def densify(x: TokenTensor, dim: int) -> Any:
    """Turns the sites along a dimension into channels: the mean of the tokens of a place, and zero where there is none.

    Space to depth, patch merging, and layers that mix all places of an image (MLP-Mixer's) ask for it. What is left without any
    other site is dense.

    Raises:
        UnsupportedError: class tokens, or a dimension of other atoms than digits.
    """
    rows, dim = x.rows, positive(x, dim)
    placed = site_atoms((x.dims[dim],))
    kept = site_atoms(x.dims[:dim] + x.dims[dim + 1 :])
    if rows.prefix or not all(atom.is_digit for atom in placed) or not any(atom.role == "b" for atom in kept):
        raise UnsupportedError(
            f"The sites along dimension {dim} of {x!r} cannot become channels: expected an image's places, with no class "
            "tokens."
        )
    new: dict[Atom, Atom] = {}
    if all(atom.role == "b" for atom in kept):
        coarse, index = None, rows.batch_index
    else:
        coarse, index, new = rows.project(kept)
    values = _mean_at_places(x, index, placed)
    dims = tuple((channel(extent(d)),) if i == dim else tuple(new.get(a, a) for a in d) for i, d in enumerate(x.dims))
    values = values.permute(0, *_feature_order(x.dims, placed)).reshape(index.count, *channel_extents(dims))
    return to_dense(values, "b", dims) if coarse is None else make_tokens(coarse, [values], dims)


def _mean_at_places(x: TokenTensor, index: RowIndex, placed: list[Atom]) -> Tensor:
    """(groups, extent of each placed atom, features) means of the tokens of a group at each place."""
    extents = [atom.extent for atom in placed]
    places = RowIndex(index.rows * prod(extents) + x.rows.number(placed), index.count * prod(extents))
    values = segment(x.values, places, "mean")
    return values.reshape(index.count, *extents, *values.shape[1:])


def _feature_order(dims: Dims, placed: list[Atom]) -> list[int]:
    """The permutation of (placed atoms, features) to the order of traversal of dimensions that hold both."""
    order, feature = [], 1 + len(placed)
    for atom in atoms(dims):
        if atom.is_channel:
            order.append(feature)
            feature += 1
        elif atom in placed:
            order.append(1 + placed.index(atom))
    return order
