"""Reductions over channels, over the sites of a dimension, and over pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import site_atoms
from i2p_zoo.sparse.tokens.pair_operations import reduce_pairs, softmax_pairs
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_groups import segment
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, positive, to_dense


def _reduce_dims(x: TokenTensor, dim: Any) -> list[int]:
    target = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return sorted(positive(x, d) for d in target)


def reduce_channels(x: TokenTensor, gone: list[int], reduction: Any) -> TokenTensor:
    """Reduces the channels of some dimensions by `how(block, feature dims)`; their sites stay."""
    features, at = [], x.lead
    for number, dim in enumerate(x.dims):
        for atom in dim:
            if atom.is_channel:
                if number in gone:
                    features.append(at)
                at += 1
    if not features:
        return x
    dims = tuple(tuple(a for a in d if not a.is_channel) if i in gone else d for i, d in enumerate(x.dims))
    return TokenTensor(x.space, [reduction(block, features) for block in x.blocks], dims)


def reduce_sites(x: TokenTensor, gone: list[int], reduction: str) -> Any:
    """Reduces the sites of some dimensions, which are left with extent 1: "sum", "mean", "amax" or "count"."""
    removed = [a for i in gone for a in x.dims[i] if not a.is_channel]
    if not removed:
        return x
    dims = tuple(tuple(a for a in d if a.is_channel) if i in gone else d for i, d in enumerate(x.dims))
    if x.is_pairs:
        return reduce_pairs(x, removed, dims, reduction)
    kept = site_atoms(dims)
    rows = x.rows
    values = x.values
    if all(atom.role == "b" for atom in kept):
        if not kept:
            raise UnsupportedError("A function that joins the samples of a batch has no sparse counterpart.")
        out = segment(values, rows.batch, x.batch_size, reduction)
        return to_dense(out, "b", dims)
    coarse, inverse, new = rows.project(kept)
    dims = tuple(tuple(new.get(a, a) for a in dim) for dim in dims)
    return TokenTensor(coarse, [segment(values, inverse, len(coarse), reduction)], dims)


def _squeeze_dims(x: Any, gone: list[int], keepdim: bool) -> Any:
    if isinstance(x, Tensor):
        return x if keepdim else x.squeeze(gone)
    x = as_tokens(x)
    dims = tuple(d for i, d in enumerate(x.dims) if keepdim or i not in gone)
    return make_tokens(x.space, x.blocks, dims)


def _register_reduction(name: str) -> None:
    inner = getattr(torch, name)

    @token_op(*methods(name))
    def reduction(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        x = as_tokens(x)
        gone = _reduce_dims(x, dim)
        out = reduce_channels(x, gone, lambda block, dims: inner(block, dim=dims))
        out = reduce_sites(out, gone, name)
        return _squeeze_dims(out, gone, keepdim)

    reduction.__qualname__ = name


for _name in ("sum", "mean", "amax"):
    _register_reduction(_name)


@token_op(*methods("max"))
def maximum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Tensor | TokenTensor | SparseTensor):
        return torch.maximum(x, dim)
    values = amax_op(x, dim, keepdim)
    return torch.return_types.max((values, None))


def amax_op(x: Any, dim: Any, keepdim: bool) -> Any:
    return torch.amax(x, dim, keepdim)


@token_op(*methods("var"))
def var(x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Any:
    x = as_tokens(x)
    correction = int(unbiased) if correction is None else correction
    gone = _reduce_dims(x, dim)
    if any(site_atoms((x.dims[i],)) for i in gone):
        raise UnsupportedError(f"`var` over the tokens of {x!r}.")
    out = reduce_channels(x, gone, lambda block, dims: torch.var(block, dim=dims, correction=correction))
    return _squeeze_dims(out, gone, keepdim)


@token_op(*methods("norm"), torch.linalg.vector_norm, torch.linalg.norm)
def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, **kwargs: Any) -> Any:
    if kwargs.get("ord", p) not in (2, 2.0, "fro", None):
        raise UnsupportedError(f"`norm` with p={p!r}.")
    return (x * x).sum(dim, keepdim=keepdim).sqrt()


@token_op(F.normalize)
def normalize(x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:
    return x / norm(x, p, dim, keepdim=True).clamp_min(eps)


@token_op(*methods("softmax"))
def softmax(x: Any, dim: int, _stacklevel: int = 3, dtype: Any = None) -> Any:
    x = as_tokens(x)
    dim = positive(x, dim)
    if not site_atoms((x.dims[dim],)):
        at = feature_dim(x, dim, "softmax")
        return make_tokens(x.space, [torch.softmax(block, at, dtype=dtype) for block in x.blocks], x.dims)
    if any(atom.is_channel for atom in x.dims[dim]):
        raise UnsupportedError(f"`softmax` over channels and tokens at once of {x!r}.")
    if x.is_pairs:
        return softmax_pairs(x, dim, dtype)
    kept = site_atoms(x.dims[:dim] + x.dims[dim + 1 :])
    groups = x.rows.blocks(kept)
    out = groups.scatter([torch.softmax(part, 1, dtype=dtype) for part in groups.gather(x.values)])
    return make_tokens(x.space, [out], x.dims)
