"""The table of torch functions that a 2D network may call on a sparse tensor: `@sparse_op(function, ...)`.

The table is filled by `i2p_zoo.sparse.functions`; this module knows of no tensor but torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import resolve_name

from i2p_zoo.errors import I2PError

Handler = Callable[..., Any]
_handlers: dict[Any, Handler] = {}
_padding_takers: set[Any] = set()


def sparse_op(*functions: Any, takes_padding: bool = False) -> Callable[[Handler], Handler]:
    """Registers the decorated function as the handler of torch functions on sparse tensors.

    Args:
        *functions: torch function objects (`torch.relu`) or tensor methods (`torch.Tensor.relu`).
        takes_padding: whether the handler knows of `SparseTensor.padding`; others refuse tensors that have any.

    Raises:
        I2PError: one of them has a handler already.

    Example:
        >>> import torch
        >>> @sparse_op(torch.sinc)
        ... def sinc(x):
        ...     return x.derive(torch.sinc(x.features))
    """

    def register(handler: Handler) -> Handler:
        for function in functions:
            if function in _handlers:
                raise I2PError(f"{function} has a sparse handler already: {_handlers[function].__qualname__}.")
        _handlers.update(dict.fromkeys(functions, handler))
        if takes_padding:
            _padding_takers.update(functions)
        return handler

    return register


def find_handler(function: Any) -> Handler | None:
    """Returns the handler registered for a torch function object, or None."""
    return _handlers.get(function)


def takes_padding(function: Any) -> bool:
    """Whether the handler of a torch function knows of `SparseTensor.padding`."""
    return function in _padding_takers


def methods(*names: str) -> list[Any]:
    """Returns the functions of these names in torch, torch.nn.functional and torch.Tensor, each once."""
    functions = [getattr(space, name, None) for name in names for space in (torch, F, Tensor)]
    return list(dict.fromkeys(function for function in functions if function is not None))


@functools.cache
def name_of(function: Any) -> str:
    """Returns the name of a torch function as users write it."""
    name = resolve_name(function) or f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    return str(name)


def describe_call(function: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """Says that a torch function was called on a sparse tensor, and with what."""
    arguments = [_describe(a) for a in args] + [f"{key}={_describe(value)}" for key, value in kwargs.items()]
    return f"`{name_of(function)}` was called on a sparse tensor with ({', '.join(arguments)})"


def describe_miss(function: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """Says that a call has no handler, how to register one, and what has."""
    supported = sorted({getattr(f, "__name__", str(f)).strip("_") for f in _handlers})
    return (
        f"{describe_call(function, args, kwargs)}; that function has no handler. "
        f"Register one with `@i2p_zoo.sparse_op({resolve_name(function) or function})`. "
        f"Supported: {', '.join(supported)}."
    )


def _describe(value: Any) -> str:
    if hasattr(type(value), "__torch_function__"):  # a tensor, torch's or sparse
        return f"{type(value).__name__}{tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(_describe(v) for v in value)})"
    return repr(value)
