"""Reductions over channels, over the sites of a dimension, and over pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import describe, extent, site_atoms
from i2p_zoo.sparse.tokens.pair_operations import reduce_pairs, softmax_pairs
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, replace_dim, to_dense


def _reduced_dims(x: TokenTensor, dim: Any) -> list[int]:
    target = range(x.ndim) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
    return sorted(positive(x, d) for d in target)


def reduce_channels(x: TokenTensor, gone: list[int], reduce: Callable[[Tensor, list[int]], Tensor]) -> TokenTensor:
    """Reduces the channels of some dimensions by `reduce(block, feature dimensions)`; their sites stay."""
    features, at = [], x.lead
    for number, dim in enumerate(x.dims):
        for atom in dim:
            if atom.is_channel and number in gone:
                features.append(at)
            at += atom.is_channel
    if not features:
        return x
    dims = tuple(tuple(a for a in d if not a.is_channel) if i in gone else d for i, d in enumerate(x.dims))
    return TokenTensor(x.space, [reduce(block, features) for block in x.blocks], dims)


def reduce_sites(x: TokenTensor, gone: list[int], reduction: str) -> Any:
    """Reduces the sites of some dimensions, which are left with extent 1.

    Args:
        x: tokens or pairs.
        gone: numbers of dimensions.
        reduction: "sum", "mean" or "amax".

    Returns:
        Tokens on the coarser rows, or a dense tensor where only samples are left.

    Raises:
        UnsupportedError: samples would be joined.
    """
    removed = [a for i in gone for a in x.dims[i] if not a.is_channel]
    if not removed:
        return x
    dims = tuple(tuple(a for a in d if a.is_channel) if i in gone else d for i, d in enumerate(x.dims))
    if x.is_pairs:
        return reduce_pairs(x, removed, dims, reduction)
    kept = site_atoms(dims)
    if kept and all(atom.role == "b" for atom in kept):
        return to_dense(segment(x.values, x.rows.batch_index, reduction), "b", dims)
    coarse, index, new = x.rows.project(kept)
    dims = tuple(tuple(new.get(a, a) for a in dim) for dim in dims)
    return TokenTensor(coarse, [segment(x.values, index, reduction)], dims)


def _reduce(x: TokenTensor, gone: list[int], reduction: str, keepdim: bool) -> Any:
    inner = getattr(torch, reduction)
    out = reduce_channels(x, gone, lambda block, dims: inner(block, dim=dims))
    out = reduce_sites(out, gone, reduction)
    if isinstance(out, Tensor):
        return out if keepdim else out.squeeze(gone)
    out = as_tokens(out)
    return make_tokens(out.space, out.blocks, tuple(d for i, d in enumerate(out.dims) if keepdim or i not in gone))


def _register_reduction(name: str) -> None:
    @token_op(*methods(name))
    def reduction(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = as_tokens(x)
        return _reduce(x if dtype is None else x.to(dtype), _reduced_dims(x, dim), name, keepdim)

    reduction.__qualname__ = name


for _name in ("sum", "mean", "amax"):
    _register_reduction(_name)


@token_op(*methods("max"))
def maximum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum of two tensors; or along a dimension, with the indices of channels: sites have no number, and None for it."""
    if isinstance(dim, Tensor | TokenTensor | SparseTensor):
        return torch.maximum(x, dim)  # type: ignore[arg-type]
    x = as_tokens(x)
    if dim is None or site_atoms((x.dims[positive(x, dim)],)):
        return torch.return_types.max((torch.amax(x, dim, keepdim), None))  # type: ignore[arg-type]
    pairs = [torch.max(block, feature_dim(x, dim, "max"), keepdim=True) for block in x.blocks]
    dims = replace_dim(x, positive(x, dim), *([()] if keepdim else []))
    at = feature_dim(x, dim, "max")
    values, indices = (make_tokens(x.space, [pair[i].squeeze(at) for pair in pairs], dims) for i in (0, 1))
    return torch.return_types.max((values, indices))


@token_op(*methods("var"))
def var(x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Any:
    """Variance over channels and over tokens: the mean square of what is left of the mean, so that large values keep theirs."""
    x = as_tokens(x)
    correction = int(unbiased) if correction is None else correction
    gone = _reduced_dims(x, dim)
    if not any(site_atoms((x.dims[i],)) for i in gone):
        out = reduce_channels(x, gone, lambda block, dims: torch.var(block, dim=dims, correction=correction))
        return make_tokens(out.space, out.blocks, tuple(d for i, d in enumerate(out.dims) if keepdim or i not in gone))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = as_tokens(wide - _reduce(wide, gone, "mean", keepdim=True))
    total = _reduce(as_tokens(centred * centred), gone, "sum", keepdim)
    ones = TokenTensor(x.space, [torch.ones_like(block) for block in wide.blocks], x.dims)
    count = _reduce(ones, gone, "sum", keepdim)
    return (total / (count - correction).clamp_min(0)).to(x.dtype)


@token_op(*methods("norm"), torch.linalg.vector_norm, torch.linalg.norm)
def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, **options: Any) -> Any:
    """Euclidean norm, whose gradient at zero is zero, as torch's."""
    order = options.get("ord", p)
    if order not in (2, 2.0, "fro", None):
        raise UnsupportedError(f"`norm` of {as_tokens(x)!r} with p={order!r}: only the Euclidean norm.")
    x = as_tokens(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = _reduce(as_tokens(wide * wide), _reduced_dims(x, dim), "sum", keepdim)
    return _sqrt(squares).to(dtype or x.dtype)


def _sqrt(squares: Any) -> Any:
    """The square root with a gradient of zero at zero."""
    if isinstance(squares, Tensor):
        zero = squares == 0
        return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    squares = as_tokens(squares)
    return make_tokens(squares.space, [_sqrt(block) for block in squares.blocks], squares.dims)


@token_op(F.normalize)
def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:
    """Divides by the norm along a dimension."""
    return x / norm(x, p, dim, keepdim=True).clamp_min(eps)


@token_op(*methods("softmax"))
def softmax(x: Any, dim: int, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Softmax along channels, over the tokens of a sample or window, or over the keys of pairs."""
    x = as_tokens(x)
    dim = positive(x, dim)
    sites = site_atoms((x.dims[dim],))
    if sites and extent(x.dims[dim]) > 1 and any(atom.is_channel for atom in x.dims[dim]):
        raise UnsupportedError(
            f"`softmax` along dimension {dim} of {x!r}: channels and tokens at once, {describe((x.dims[dim],))}."
        )
    if sites and not x.is_pairs:
        groups = x.rows.blocks(site_atoms(replace_dim(x, dim)))
        out = groups.scatter([torch.softmax(part, 1, dtype=dtype) for part in groups.gather(x.values)])
        return make_tokens(x.space, [out], x.dims)
    if sites:
        return softmax_pairs(x, dim, dtype)
    at = feature_dim(x, dim, "softmax")
    return make_tokens(x.space, [torch.softmax(block, at, dtype=dtype) for block in x.blocks], x.dims)
