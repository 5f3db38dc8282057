"""Functions of each value alone, of tokens and pairs of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.function_lists import ELEMENTWISE
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor


def _register_elementwise(function: Any) -> None:
    @token_op(function)
    def elementwise(x: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = as_tokens(x)
        others = (*args, *kwargs.values())
        if not isinstance(tokens, TokenTensor) or any(isinstance(as_tokens(other), TokenTensor) for other in others):
            raise UnsupportedError(f"`{function.__name__}` takes tokens as its first argument alone, and numbers.")
        kwargs.pop("memory_format", None)
        blocks = [function(block, *args, **kwargs) for block in tokens.blocks]
        in_place = all(new is block for new, block in zip(blocks, tokens.blocks, strict=True))
        return x if in_place else make_tokens(tokens.space, blocks, tokens.dims)

    elementwise.__qualname__ = f"elementwise {function.__name__}"


for _function in ELEMENTWISE:
    _register_elementwise(_function)


@token_op(*methods("type_as"))
def type_as(x: Any, other: Any) -> Any:
    """Casts tokens to another tensor's dtype, or a dense tensor to that of tokens."""
    return x.to(other.dtype)


@token_op(*methods("to"))
def to(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Casts a dense tensor to the dtype of tokens; tokens have a method of their own."""
    if isinstance(x, Tensor):
        return x.to(args[0].dtype)
    return as_tokens(x).to(*args, **kwargs)


@token_op(*methods("contiguous"))
def contiguous(x: Any, memory_format: Any = None) -> Any:
    """Leaves tokens as they are: their memory has no order that a network could know of."""
    return x


@token_op(*methods("is_contiguous"))
def is_contiguous(x: Any, memory_format: Any = None) -> bool:
    """Says yes, since any view of tokens is legal."""
    return True


@token_op(*methods("detach"))
def detach(x: Any) -> Any:
    """Cuts tokens from the autograd graph."""
    return x.detach()
