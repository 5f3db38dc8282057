"""Attention among the tokens of a sample or a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.tokens.layout import Atom, Dims, channel, site_atoms
from i2p_zoo.sparse.tokens.position_tables import TableReader, on_pairs, pad_dims
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_groups import GroupBlock
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, split_features

MAX_SCORES = 2**24  # scores of pairs that a mask or dropout may ask for at once: 64 MiB in float32

Options = dict[str, Any]
ReadMask = Callable[[int, slice], Tensor]
"""Given the number of a block and a slice of its queries: (G, queries, keys, heads...), with 1 where all are alike."""


@token_op(F.scaled_dot_product_attention)
def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention of each token to those of its group: the window, or else the sample.

    Args:
        q, k, v: (groups, heads..., tokens, channels), tokens or of each sample dense ones.
        attn_mask: tokens, pairs or a table over the canvas, boolean or added to the scores.
        dropout_p, scale, enable_gqa: as torch's.

    Raises:
        UnsupportedError: causal, or the three have no groups in common.
    """
    q, k, v, attn_mask = (as_tokens(t) for t in (q, k, v, attn_mask))
    if is_causal:
        raise UnsupportedError("Causal attention of tokens: voxels have no order. Expected `is_causal=False`.")
    q, k, v = (_with_unit_heads(t) if isinstance(t, TokenTensor) else t for t in (q, k, v))
    options = {"dropout_p": dropout_p, "scale": scale, **({"enable_gqa": True} if enable_gqa else {})}
    if not isinstance(q, TokenTensor) or not isinstance(k, TokenTensor):
        return _attention_with_dense(q, k, v, attn_mask, options)
    if not site_atoms((q.dims[-2],)) and not site_atoms((k.dims[-2],)):
        return _attention_in_rows(q, k, v, attn_mask, options)
    shared_q, shared_k = site_atoms(q.dims[:-2]), site_atoms(k.dims[:-2])
    if [x.extent for x in shared_q] != [x.extent for x in shared_k]:
        raise UnsupportedError(f"Attention of {q!r} to {k!r}: expected like groups; got {shared_q} and {shared_k}.")
    pairs = TokenPairs.of(q.rows, k.rows, shared_q, shared_k)
    read_mask = _mask_reader(pairs, (*q.dims[:-1], tuple(replace(atom, side=1) for atom in k.dims[-2])), attn_mask)
    blocks = (pairs.query_blocks.gather(q.values), pairs.key_blocks.gather(k.values), pairs.key_blocks.gather(v.values))
    out = []
    for i, (key_part, *block) in enumerate(zip(pairs.key_blocks.parts, *blocks, strict=True)):
        queries, keys, values = (_tokens_last(t) for t in block)
        mask = None if read_mask is None else partial(read_mask, i)
        out.append(attend(queries, keys, values, mask, key_part, options).movedim(-2, 1))
    return make_tokens(q.rows, [pairs.query_blocks.scatter(out)], (*q.dims[:-1], v.dims[-1]))


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    read_mask: Callable[[slice], Tensor] | None,
    key_part: GroupBlock,
    options: Options,
) -> Tensor:
    """Attention within the groups of a block, through torch's; in slices of queries where scores would fill the memory.

    torch's kernels keep no scores unless a mask or dropout asks for them. These are made again for gradients, slice by slice.

    Args:
        queries, keys, values: (G, heads..., n, channels), (G, heads..., m, channels), (G, heads..., m, channels).
        read_mask: gives the (G, queries, keys, heads...) mask of a slice of the queries.
        key_part: the groups of the keys, some of which may repeat.
        options: further arguments of `scaled_dot_product_attention`.

    Returns:
        (G, heads..., n, channels).
    """

    def attend_slice(part: Tensor, place: slice) -> Tensor:
        mask = None if read_mask is None else _heads_first(read_mask(place))
        return _attend_whole(part, keys, values, _hide_repeated(mask, key_part, queries.ndim), options)

    count = queries.shape[-2]
    if read_mask is None and not options["dropout_p"]:
        return attend_slice(queries, slice(None))
    each = max(MAX_SCORES // max(queries[..., 0, 0].numel() * keys.shape[-2], 1), 1) if count else 1
    if each >= count:
        return attend_slice(queries, slice(None))
    out = []
    for start in range(0, count, each):
        place = slice(start, start + each)
        arguments = (attend_slice, queries[..., place, :], place)
        out.append(checkpoint(*arguments, use_reentrant=False) if torch.is_grad_enabled() else attend_slice(*arguments[1:]))
    return torch.cat(out, -2)


def _attend_whole(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Attention by torch; of a single head too by the kernels that keep no scores, which ask for four dimensions."""
    if queries.ndim > 3:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, **options)
    queries, keys, values = (t.unsqueeze(1) for t in (queries, keys, values))
    mask = None if mask is None else mask.unsqueeze(1)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, **options).squeeze(1)


def _hide_repeated(mask: Tensor | None, part: GroupBlock, ndim: int) -> Tensor | None:
    """Masks the keys that repeat; (G, heads..., queries, keys) with `ndim` dimensions, or None where nothing is masked."""
    if part.filled is None:
        return mask
    filled = part.filled.view(len(part.filled), *[1] * (ndim - 2), -1)
    if mask is None:
        return filled
    return mask & filled if mask.dtype == torch.bool else mask.masked_fill(~filled, -torch.inf)


def _mask_reader(pairs: TokenPairs, dims: Dims, mask: Any) -> ReadMask | None:
    """Says how to read the mask of pairs whose dimensions, of scores, are `dims`."""
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        return TableReader(pairs, mask.reshape((1,) * (len(dims) - mask.ndim) + tuple(mask.shape)), dims).read
    blocks = mask.blocks
    if not mask.is_pairs:
        blocks = on_pairs(pairs, dims, TokenTensor(mask.space, blocks, pad_dims(mask.dims, len(dims))), "attention")[0]

    def read(block: int, queries: slice) -> Tensor:
        whole: Tensor = blocks[block]
        return whole[:, queries] if whole.shape[1] > 1 else whole

    return read


def _with_unit_heads(x: TokenTensor) -> TokenTensor:
    """Dimensions without atoms as feature dimensions of extent 1, which broadcast (one head of keys for all of queries)."""
    if all(x.dims):
        return x
    dims = tuple(dim or (channel(1),) for dim in x.dims)
    return TokenTensor(x.space, split_features(x, dims), dims)


def _attention_in_rows(q: TokenTensor, k: TokenTensor, v: TokenTensor, mask: Any, options: Options) -> Any:
    """Attention among channels that pass for tokens, within each row."""
    if mask is not None or q.space is not k.space:
        raise UnsupportedError(f"Attention of {q!r} to {k!r} within each row: expected the same rows and no mask.")
    out = F.scaled_dot_product_attention(q.values, k.values, v.values, **options)
    return make_tokens(q.rows, [out], (*q.dims[:-1], v.dims[-1]))


def _attention_with_dense(q: Any, k: Any, v: Any, mask: Any, options: Options) -> Any:
    """Dense queries of each sample to its tokens, or tokens to dense keys of their sample."""
    tokens = k if isinstance(k, TokenTensor) else q
    dense = {name: t for name, t in (("q", q), ("k", k), ("v", v)) if isinstance(t, Tensor)}
    of_samples = tokens.dims[0] == (Atom("b", tokens.batch_size),)
    if mask is not None or not of_samples or any(t.shape[0] not in (1, tokens.batch_size) for t in dense.values()):
        raise UnsupportedError(f"Attention of {q!r} to {k!r}: expected samples in dimension 0 of both, and no mask.")
    groups = tokens.rows.blocks(site_atoms(tokens.dims[:-2]))
    blocks = {name: groups.gather(t.values) for name, t in (("q", q), ("k", k), ("v", v)) if isinstance(t, TokenTensor)}
    out = []
    for i, part in enumerate(groups.parts):
        operands = []
        for name in "qkv":
            if name in blocks:
                operands.append(_tokens_last(blocks[name][i]))
            else:
                operands.append(dense[name].expand(tokens.batch_size, *dense[name].shape[1:])[part.groups])
        out.append(_attend_whole(operands[0], operands[1], operands[2], None, options))
    if isinstance(q, Tensor):
        return groups.scatter_groups(out)
    return make_tokens(q.rows, [groups.scatter([part.movedim(-2, 1) for part in out])], (*q.dims[:-1], (channel(v.shape[-1]),)))


def _tokens_last(block: Tensor) -> Tensor:
    """(G, n, heads..., c) to (G, heads..., n, c)."""
    return block.movedim(1, -2)


def _heads_first(block: Tensor) -> Tensor:
    """(G, q, k, heads...) to (G, heads..., q, k)."""
    return block.movedim((1, 2), (-2, -1))
