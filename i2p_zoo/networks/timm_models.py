"""timm's 2D networks, with random weights or as a structure alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from i2p_zoo.errors import InvalidInputError

_MAX_MODULES = 3_000  # resnetrs420 makes 2,540, the most of any in timm


class _NoRandomNumbers(TorchFunctionMode):
    """Passes over the drawing of weights, which takes longer on the meta device than all the rest and leaves no trace there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def create_timm_model(architecture: str, *, structure: bool = False, **kwargs: Any) -> nn.Module:
    """Creates timm's 2D network with random weights.

    Args:
        architecture: timm's name.
        structure: create no weights: parameters and buffers are on the meta device; and no more modules than any network has.
        **kwargs: passed to `timm.create_model`.

    Raises:
        InvalidInputError: timm does not take the arguments, or makes more modules of them.
    """
    loading = sorted({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"} & kwargs.keys())
    if loading:
        raise InvalidInputError(f"{loading}: networks are made with random weights; call `i2p_zoo.from_pretrained` for others.")
    try:
        with contextlib.ExitStack() as stack:
            if structure:
                stack.enter_context(_limit_modules())
                stack.enter_context(_NoRandomNumbers())
                stack.enter_context(torch.device("meta"))
            model: nn.Module = timm.create_model(architecture, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        raise InvalidInputError(f"timm cannot create {architecture!r} with {kwargs}: {error}") from error
    return model


@contextlib.contextmanager
def _limit_modules() -> Iterator[None]:
    """Raises InvalidInputError where this thread makes more modules than any network of timm has, before it takes long."""
    thread, count = threading.get_ident(), 0

    def hook(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > _MAX_MODULES and threading.get_ident() == thread:
            raise InvalidInputError(f"it has more than {_MAX_MODULES} modules")

    handle = register_module_module_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
