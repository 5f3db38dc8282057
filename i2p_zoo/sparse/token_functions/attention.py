"""Attention among the tokens of a sample or a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.tokens.layout import Atom, Dims, channel, site_atoms
from i2p_zoo.sparse.tokens.position_tables import on_pairs, pad_dims, read_table
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, split_features


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
    """Attention among the tokens of a group, group by group."""
    q, k, v, attn_mask = as_tokens(q), as_tokens(k), as_tokens(v), as_tokens(attn_mask)
    if is_causal:
        raise UnsupportedError("Causal attention of tokens, which have no order.")
    q, k, v = (_with_unit_heads(t) if isinstance(t, TokenTensor) else t for t in (q, k, v))
    options = {"dropout_p": dropout_p, "scale": scale, **({"enable_gqa": True} if enable_gqa else {})}
    if not isinstance(q, TokenTensor) or not isinstance(k, TokenTensor):
        return _attention_with_dense(q, k, v, attn_mask, options)
    if not site_atoms((q.dims[-2],)) and not site_atoms((k.dims[-2],)):
        return _attention_in_rows(q, k, v, attn_mask, options)
    shared_q, shared_k = site_atoms(q.dims[:-2]), site_atoms(k.dims[:-2])
    if [x.extent for x in shared_q] != [x.extent for x in shared_k]:
        raise UnsupportedError(f"Attention of {q!r} to {k!r}.")
    pairs = TokenPairs.of(q.rows, k.rows, shared_q, shared_k)
    dims = (*q.dims[:-1], tuple(replace(atom, side=1) for atom in k.dims[-2]))
    masks: list[Any] = [None] * len(pairs.query_blocks.parts)
    if isinstance(attn_mask, TokenTensor) and attn_mask.is_pairs:
        masks = [_heads_first(block, 3) for block in attn_mask.blocks]
    elif isinstance(attn_mask, TokenTensor):
        tokens = TokenTensor(attn_mask.space, attn_mask.blocks, pad_dims(attn_mask.dims, len(dims)))
        masks = [_heads_first(block, 3) for block in on_pairs(pairs, dims, tokens, "attention")[0]]
    elif attn_mask is not None:
        like = TokenTensor(pairs, _placeholders(pairs, dims, q), dims)
        table = attn_mask.reshape((1,) * (len(dims) - attn_mask.ndim) + tuple(attn_mask.shape))
        masks = [_heads_first(block, 3) for block in read_table(like, table, dims)]
    out = []
    parts = (pairs.query_blocks.gather(q.values), pairs.key_blocks.gather(k.values), pairs.key_blocks.gather(v.values))
    for mine, keys, values, mask in zip(*parts, masks, strict=True):
        result = F.scaled_dot_product_attention(*(_tokens_last(t) for t in (mine, keys, values)), attn_mask=mask, **options)
        out.append(result.movedim(-2, 1))
    return make_tokens(q.rows, [pairs.query_blocks.scatter(out)], (*q.dims[:-1], v.dims[-1]))


def _with_unit_heads(x: TokenTensor) -> TokenTensor:
    """Dimensions without atoms as feature dimensions of extent 1, which broadcast (one head of keys for all of queries)."""
    if all(x.dims):
        return x
    dims = tuple(dim or (channel(1),) for dim in x.dims)
    return TokenTensor(x.space, split_features(x, dims), dims)


def _attention_in_rows(q: TokenTensor, k: TokenTensor, v: TokenTensor, mask: Any, options: Any) -> Any:
    """Attention among channels that pass for tokens, within each row."""
    if mask is not None or q.space is not k.space:
        raise UnsupportedError(f"Attention of {q!r} to {k!r}.")
    out = F.scaled_dot_product_attention(q.values, k.values, v.values, **options)
    return make_tokens(q.rows, [out], (*q.dims[:-1], v.dims[-1]))


def _placeholders(pairs: TokenPairs, dims: Dims, q: TokenTensor) -> list[Tensor]:
    features = [atom.extent for dim in dims for atom in dim if atom.is_channel]
    one = q.values.new_zeros(()).expand(1, 1, 1, *features)
    return [one for _ in pairs.query_blocks.parts]


def _tokens_last(block: Tensor) -> Tensor:
    """(G, n, heads..., c) to (G, heads..., n, c)."""
    return block.movedim(1, -2)


def _heads_first(block: Tensor, lead: int) -> Tensor:
    """(G, q, k, heads...) to (G, heads..., q, k); leading dimensions may be missing where they do not matter."""
    return block.movedim((1, 2), (-2, -1)) if block.ndim >= 3 else block


def _attention_with_dense(q: Any, k: Any, v: Any, mask: Any, options: Any) -> Any:
    """Dense queries of each sample to its tokens, or tokens to dense keys of their sample."""
    if mask is not None:
        raise UnsupportedError("Attention between dense and ragged tokens with a mask.")
    ragged = k if isinstance(k, TokenTensor) else q
    groups = ragged.rows.blocks(site_atoms(ragged.dims[:-2]))
    dense = {name: t for name, t in (("q", q), ("k", k), ("v", v)) if isinstance(t, Tensor)}
    if any(t.shape[0] not in (1, ragged.batch_size) for t in dense.values()) or ragged.dims[0] != (
        Atom("b", ragged.batch_size),
    ):
        raise UnsupportedError(f"Attention of {q!r} to {k!r}.")
    blocks = {name: groups.gather(t.values) for name, t in (("q", q), ("k", k), ("v", v)) if isinstance(t, TokenTensor)}
    out = []
    for i, (ids, _) in enumerate(groups.parts):
        parts = []
        for name in "qkv":
            if name in blocks:
                parts.append(_tokens_last(blocks[name][i]))
            else:
                parts.append(dense[name][ids if dense[name].shape[0] > 1 else ids * 0])
        out.append(F.scaled_dot_product_attention(*parts, **options))
    if isinstance(q, Tensor):
        return groups.scatter_groups(out)
    return make_tokens(q.rows, [groups.scatter([part.movedim(-2, 1) for part in out])], (*q.dims[:-1], (channel(v.shape[-1]),)))
