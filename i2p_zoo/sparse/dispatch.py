"""The table of torch functions that a 2D network may call on voxels and on tokens: `@sparse_op(...)`, `@token_op(...)`.

A function has a handler on sites, one on tokens, or both. A sparse tensor is tried on its sites first; where those cannot
express the call (one side of an image, windows, attention), it is taken for tokens. The table is filled by
`i2p_zoo.sparse.functions` and `i2p_zoo.sparse.token_functions`; this module knows of no tensor but torch's.
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
_watchers: dict[int, Callable[[Any, Any, dict[str, Any]], None]] = {}  # by thread


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

    The handler gets the call's arguments: `TokenTensor`s, `SparseTensor`s, which `as_tokens` turns into tokens, and dense
    tensors. What it returns by `make_tokens` is a SparseTensor again wherever its dimensions are those of one.

    Args:
        *functions: torch function objects (`torch.relu`) or tensor methods (`torch.Tensor.relu`).

    Raises:
        I2PError: one of them has a handler on tokens already.

    Example:
        >>> import torch
        >>> from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
        >>> @token_op(torch.i0)
        ... def i0(x):
        ...     x = as_tokens(x)
        ...     return make_tokens(x.space, [torch.i0(block) for block in x.blocks], x.dims)
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
    """Hands each call's function, arguments and keywords to a watcher, in this thread, before it runs on voxels or tokens."""
    thread = threading.get_ident()
    before = _watchers.get(thread)
    _watchers[thread] = watcher
    try:
        yield
    finally:
        del _watchers[thread]
        if before is not None:
            _watchers[thread] = before


def _notify(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if (watcher := _watchers.get(threading.get_ident())) is not None:
        watcher(function, args, kwargs)


def call_on_sites(function: Any, args: Any, kwargs: dict[str, Any], check_padding: Callable[[Any, Any], None]) -> Any:
    """Calls a torch function on sparse tensors: on their sites or, where those cannot express it, on tokens.

    Args:
        function, args, kwargs: the call.
        check_padding: refuses a call, given its function and arguments, where one of them has a padding waiting.

    Raises:
        UnsupportedError, CoordinateMismatchError: neither has a meaning for it; the message says why not, of each.
    """
    if _watchers:
        _notify(function, args, kwargs)
    handler = _handlers.get(function)
    if handler is None or _hold_tokens(args) or (kwargs and _hold_tokens(kwargs.values())):
        return _call_without_sites(function, args, kwargs)
    try:
        if function not in _padding_takers:
            check_padding(function, (*args, *kwargs.values()) if kwargs else args)
        return handler(*args, **kwargs)
    except (UnsupportedError, CoordinateMismatchError) as error:
        if function not in _token_handlers:
            raise
        refusal = type(error), str(error)  # the error itself would hold this frame, and so the arguments, in a cycle
    except TypeError as error:
        refusal = UnsupportedError, _describe_mismatch(error, handler, function, args, kwargs)
        if function not in _token_handlers:
            raise UnsupportedError(refusal[1]) from None
    error_type, reason = refusal
    if not _have_extents((*args, *kwargs.values())):
        raise error_type(reason if error_type is CoordinateMismatchError else f"{reason} {_ask_for_canvas(function)}")
    try:
        return _call(_token_handlers[function], function, args, kwargs)
    except (UnsupportedError, CoordinateMismatchError) as error:
        raise error_type(f"{reason} As tokens: {error}") from error


def call_on_tokens(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Calls a torch function on tokens; raises UnsupportedError where it has no meaning for them."""
    if _watchers:
        _notify(function, args, kwargs)
    handler = _token_handlers.get(function)
    if handler is None:
        raise UnsupportedError(_describe_miss(function, args, kwargs, "tokens"))
    return _call(handler, function, args, kwargs)


def _call_without_sites(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    handler = _token_handlers.get(function)
    if handler is None:
        raise UnsupportedError(_describe_miss(function, args, kwargs, "a sparse tensor"))
    if not _have_extents((*args, *kwargs.values())):
        raise UnsupportedError(f"{describe_call(function, args, kwargs)}. {_ask_for_canvas(function)}")
    return _call(handler, function, args, kwargs)


def _ask_for_canvas(function: Any) -> str:
    return (
        f"`{name_of(function)}` can take the voxels of a cloud for tokens of an image where the network knows its size: give "
        "it as `i2p_zoo.inflate(..., canvas=(height, width))`."
    )


def _call(handler: Handler, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    try:
        return handler(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedError(_describe_mismatch(error, handler, function, args, kwargs)) from None


def _describe_mismatch(error: TypeError, handler: Handler, function: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """Says which arguments a handler does not take; raises a TypeError that came from its inside again."""
    try:
        inspect.signature(handler).bind(*args, **kwargs)
    except TypeError:
        return f"{describe_call(function, args, kwargs)}: {error}."
    raise error


class Tokens:
    """Base of what stands for tokens, so that a call on sites knows it among its arguments."""


def _hold_tokens(values: Any) -> bool:
    for value in values:
        if isinstance(value, Tokens):
            return True
        if type(value) is list or type(value) is tuple:  # of `torch.cat`; a loop, since every call of a network comes here
            for part in value:
                if isinstance(part, Tokens):
                    return True
    return False


def _have_extents(values: Any) -> bool:
    """Whether every sparse tensor among some arguments has the height and width that tokens need: a border's or a canvas's."""
    return all(_have_extents(v) if isinstance(v, list | tuple) else getattr(v, "has_extent", True) for v in values)


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


def _describe_miss(function: Any, args: Any, kwargs: dict[str, Any], subject: str) -> str:
    """Says that a call has no handler, how to register one, and what has."""
    table, decorator = (_token_handlers, "token_op") if subject == "tokens" else (_handlers, "sparse_op")
    supported = sorted({getattr(f, "__name__", str(f)).strip("_") for f in table})
    return (
        f"{describe_call(function, args, kwargs, subject)}; that function has no handler. "
        f"Register one with `@i2p_zoo.{decorator}({resolve_name(function) or function})`. "
        f"Supported: {', '.join(supported)}."
    )


def _describe(value: Any) -> str:
    if hasattr(type(value), "__torch_function__"):  # a tensor, torch's or sparse
        return f"{type(value).__name__}{tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(_describe(v) for v in value)})"
    return repr(value)
