"""The table of torch functions that a 2D network may call on voxels and on tokens: `@sparse_op(...)`, `@token_op(...)`.

A function has a handler on sites, one on tokens, or both. A sparse tensor is tried on its sites first; where those cannot express
the call (half an image's sides, windows, attention), it is taken for tokens. The table is filled by `i2p_zoo.sparse.functions` and
`i2p_zoo.sparse.token_functions`; this module knows of no tensor but torch's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import resolve_name

from i2p_zoo.errors import CoordinateMismatchError, I2PError, UnsupportedError

Handler = Callable[..., Any]
_handlers: dict[Any, Handler] = {}
_token_handlers: dict[Any, Handler] = {}
_padding_takers: set[Any] = set()
_watchers = threading.local()


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
        _register(_handlers, functions, handler, "sparse")
        if takes_padding:
            _padding_takers.update(functions)
        return handler

    return register


def token_op(*functions: Any) -> Callable[[Handler], Handler]:
    """Registers the decorated function as the handler of torch functions on tokens, and of what sites cannot express.

    The handler gets `TokenTensor`s, and sparse tensors, which `i2p_zoo.sparse.tokens.site_tokens.as_tokens` turns into some.

    Args:
        *functions: torch function objects (`torch.relu`) or tensor methods (`torch.Tensor.relu`).

    Raises:
        I2PError: one of them has a handler on tokens already.
    """

    def register(handler: Handler) -> Handler:
        _register(_token_handlers, functions, handler, "token")
        return handler

    return register


def _register(table: dict[Any, Handler], functions: tuple[Any, ...], handler: Handler, word: str) -> None:
    for function in functions:
        if function in table:
            raise I2PError(f"{function} has a {word} handler already: {table[function].__qualname__}.")
    table.update(dict.fromkeys(functions, handler))


def find_handler(function: Any) -> Handler | None:
    """Returns the handler registered for a torch function object, or None."""
    return _handlers.get(function)


def find_token_handler(function: Any) -> Handler | None:
    """Returns the handler of a torch function object on tokens, or None."""
    return _token_handlers.get(function)


@contextlib.contextmanager
def watch_calls(watcher: Callable[[Any, Any, dict[str, Any]], None]) -> Iterator[None]:
    """Calls a function with each call's function, arguments and keywords, in this thread, before it runs on voxels or tokens."""
    before = getattr(_watchers, "watcher", None)
    _watchers.watcher = watcher
    try:
        yield
    finally:
        _watchers.watcher = before


def _notify(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if (watcher := getattr(_watchers, "watcher", None)) is not None:
        watcher(function, args, kwargs)


def call_on_sites(function: Any, args: Any, kwargs: dict[str, Any], check_padding: Callable[[Any, str], None]) -> Any:
    """Calls a torch function on sparse tensors: on their sites or, where those cannot express it, on tokens.

    Args:
        function, args, kwargs: the call.
        check_padding: refuses an argument that has a padding waiting, given the function's name.

    Raises:
        UnsupportedError, CoordinateMismatchError: neither has a meaning for it.
    """
    _notify(function, args, kwargs)
    handler, on_tokens = _handlers.get(function), _token_handlers.get(function)
    if on_tokens is not None and any(_holds_tokens(x) for x in args):
        return _call(on_tokens, function, args, kwargs)
    if handler is None:
        if on_tokens is None:
            raise UnsupportedError(describe_miss(function, args, kwargs))
        if not _may_be_tokens((*args, *kwargs.values())):
            raise UnsupportedError(f"{describe_call(function, args, kwargs)}. {_ask_for_canvas(function)}")
        return _call(on_tokens, function, args, kwargs)
    try:
        if function not in _padding_takers:
            for x in (*args, *kwargs.values()):
                check_padding(x, name_of(function))
        return _call(handler, function, args, kwargs)
    except (UnsupportedError, CoordinateMismatchError) as refusal:
        if on_tokens is None:
            raise
        if not _may_be_tokens((*args, *kwargs.values())):
            if isinstance(refusal, CoordinateMismatchError):
                raise
            raise UnsupportedError(f"{refusal} {_ask_for_canvas(function)}") from refusal
        return _call(on_tokens, function, args, kwargs, refusal)


def _ask_for_canvas(function: Any) -> str:
    return (
        f"`{name_of(function)}` can take the voxels of a cloud for tokens of an image where the network knows its size: give it as "
        "`i2p_zoo.inflate(..., canvas=(height, width))`."
    )


def call_on_tokens(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Calls a torch function on tokens; raises UnsupportedError where it has no meaning for them."""
    _notify(function, args, kwargs)
    handler = _token_handlers.get(function)
    if handler is None:
        raise UnsupportedError(f"{describe_call(function, args, kwargs, 'tokens')}; that function has no handler on them.")
    return _call(handler, function, args, kwargs)


def _call(handler: Handler, function: Any, args: Any, kwargs: dict[str, Any], refusal: Exception | None = None) -> Any:
    try:
        return handler(*args, **kwargs)
    except TypeError as error:
        try:
            inspect.signature(handler).bind(*args, **kwargs)
        except TypeError:
            raise refusal or UnsupportedError(f"{describe_call(function, args, kwargs)}: {error}.") from None
        raise


def _holds_tokens(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tokens(each) for each in value)
    return getattr(type(value), "is_of_tokens", False)


def _may_be_tokens(values: Any) -> bool:
    """Whether every sparse tensor among some arguments has an extent that tokens need, a border or a canvas."""
    return all(getattr(x, "has_extent", True) for x in _flatten(values))


def _flatten(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flatten(value)
        else:
            yield value


def methods(*names: str) -> list[Any]:
    """Returns the functions of these names in torch, torch.nn.functional and torch.Tensor, each once."""
    functions = [getattr(space, name, None) for name in names for space in (torch, F, Tensor)]
    return list(dict.fromkeys(function for function in functions if function is not None))


@functools.cache
def name_of(function: Any) -> str:
    """Returns the name of a torch function as users write it."""
    name = resolve_name(function) or f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    return str(name)


def describe_call(function: Any, args: Any, kwargs: dict[str, Any], subject: str = "a sparse tensor") -> str:
    """Says that a torch function was called on a sparse tensor or on tokens, and with what."""
    arguments = [_describe(a) for a in args] + [f"{key}={_describe(value)}" for key, value in kwargs.items()]
    return f"`{name_of(function)}` was called on {subject} with ({', '.join(arguments)})"


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
