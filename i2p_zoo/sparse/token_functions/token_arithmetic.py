"""Arithmetic of two tensors of tokens, pairs or dense values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.function_lists import as_operand, register_arithmetic
from i2p_zoo.sparse.tokens.layout import sizes
from i2p_zoo.sparse.tokens.position_tables import operands
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


def _binary(compute: Any, function: Any, *, reflected: bool) -> None:
    name = compute.__name__

    @token_op(function)
    def binary(input: Any, other: Any, *, alpha: float = 1) -> Any:  # torch's names, by which some call
        left, right = as_tokens(input), as_tokens(other)
        if alpha != 1:
            right = right * alpha
        x, operand = (left, right) if isinstance(left, TokenTensor) else (right, left)
        space, ours, others, dims = operands(x, operand, name)
        first = (x is left) != reflected
        out = []
        for mine, theirs in zip(ours, others, strict=True):
            value = theirs if isinstance(theirs, Tensor) else as_operand(theirs, mine)
            out.append(compute(mine, value) if first else compute(value, mine))
        return make_tokens(space, out, dims)

    binary.__qualname__ = name


def _in_place(compute: Any, function: Any) -> None:
    name = f"{compute.__name__}_"
    method = getattr(Tensor, name)

    @token_op(function)
    def in_place(x: Any, other: Any, *, alpha: float = 1) -> Any:
        tokens, other = as_tokens(x), as_tokens(other)
        if not isinstance(tokens, TokenTensor):
            raise UnsupportedError(f"`{name}` cannot write {other!r} into a dense tensor of shape {tuple(x.shape)}.")
        space, ours, others, dims = operands(tokens, other if alpha == 1 else other * alpha, name)
        if space is not tokens.space or sizes(dims) != tokens.shape:
            raise UnsupportedError(
                f"`{name}` of {tokens!r} and {other!r}: the result, of shape {sizes(dims)}, does not fit into it."
            )
        for mine, theirs in zip(ours, others, strict=True):  # blocks share memory with `x`, and with what `x` is a view of
            method(mine, theirs)
        return x

    in_place.__qualname__ = name


register_arithmetic(_binary, _in_place)


@token_op(*methods("masked_fill"))
def masked_fill(x: Any, mask: Any, value: float) -> Any:
    """Writes a value where a mask, of tokens, pairs or places of the canvas, holds."""
    x = as_tokens(x)
    space, ours, masks, dims = operands(x, as_tokens(mask), "masked_fill")
    return make_tokens(space, [block.masked_fill(m, value) for block, m in zip(ours, masks, strict=True)], dims)
