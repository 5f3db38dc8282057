"""The table of torch functions that a 2D network may call on a sparse tensor: `@sparse_op(function, ...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import I2PError
from i2p_zoo.sparse.tensor import _handlers, _padding_takers

Handler = Callable[..., Any]


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


def methods(*names: str) -> list[Any]:
    """The functions of these names in torch, torch.nn.functional and torch.Tensor, each once."""
    found = [getattr(space, name, None) for name in names for space in (torch, F, Tensor)]
    return list(dict.fromkeys(function for function in found if function is not None))
