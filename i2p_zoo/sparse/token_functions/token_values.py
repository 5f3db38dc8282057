"""Functions of each value alone, of tokens and pairs of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from i2p_zoo.sparse.dispatch import methods, token_op
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens

_ELEMENTWISE = """
    relu relu_ relu6 silu sigmoid sigmoid_ logsigmoid hardswish hardsigmoid hardtanh hardtanh_ tanh tanh_ gelu mish elu elu_
    celu selu leaky_relu leaky_relu_ softplus softsign tanhshrink threshold rrelu dropout alpha_dropout clamp clamp_ clamp_min
    clamp_max exp log sqrt rsqrt square abs neg reciprocal clone nan_to_num sin cos __neg__ __pow__ pow
""".split()


def _register_elementwise(function: Any) -> None:
    @token_op(function)
    def elementwise(x: Any, *args: Any, **kwargs: Any) -> Any:
        x = as_tokens(x)
        kwargs.pop("memory_format", None)
        return make_tokens(x.space, [function(block, *args, **kwargs) for block in x.blocks], x.dims)

    elementwise.__qualname__ = function.__name__


for _function in methods(*_ELEMENTWISE):
    _register_elementwise(_function)


@token_op(*methods("type_as"))
def type_as(x: Any, other: Any) -> Any:
    return as_tokens(x).to(other.dtype)


@token_op(*methods("to"))
def to(x: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(x, Tensor):  # of a dense tensor to a ragged one's dtype
        return x.to(args[0].dtype)
    return as_tokens(x).to(*args, **kwargs)


@token_op(*methods("contiguous"))
def contiguous(x: Any, memory_format: Any = None) -> Any:
    return x


@token_op(*methods("is_contiguous"))
def is_contiguous(x: Any, memory_format: Any = None) -> bool:
    return True


@token_op(*methods("detach"))
def detach(x: Any) -> Any:
    return as_tokens(x).map(Tensor.detach)
