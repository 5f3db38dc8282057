"""The table of 2D leaves: `@replaces(type, ...)` builds the sparse 3D layer of a leaf, `keep(type, ...)` lets it run as it is.

Types are matched exactly, never by inheritance or name: a subclass may compute something else. A module whose own tensors are
all vectors or scalars needs no entry: they hold no spatial weights, and its own forward runs on sparse tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from i2p_zoo.errors import I2PError

Builder = Callable[..., nn.Module]
AnyBuilder = TypeVar("AnyBuilder", bound=Builder)
_SPATIAL = (_ConvNd, nn.RNNBase, nn.Bilinear, nn.MultiheadAttention)
_builders: dict[type[nn.Module], Builder | None] = {}


def replaces(*types: type[nn.Module]) -> Callable[[AnyBuilder], AnyBuilder]:
    """Registers the decorated function or class as the builder of the 3D layer for 2D leaves of exactly these types.

    The builder is called as `builder(leaf, axis=..., depth=..., inflation=...)` (axis "z", "y" or "x"; depth the longest
    kernel along it, or None; one of `INFLATIONS`) and returns a module without meaningful weights, with
    the parameter names and dtype of the leaf's. Where a tensor's shape differs from the leaf's, the module has a method
    `inflate_tensor(name, source, inflation)` that returns the 3D tensor, or None for one that is copied; where it has
    `deflate_tensor(name, inflated, inflation)` too, compact checkpoints hold the 2D tensor.

    Raises:
        I2PError: one of the types is registered already.
    """

    def register(builder: AnyBuilder) -> AnyBuilder:
        _register(types, builder)
        return builder

    return register


def keep(*types: type[nn.Module]) -> None:
    """Registers 2D modules that own parameters or buffers and run on sparse tensors by their own forward.

    Raises:
        I2PError: one of the types is registered already.
    """
    _register(types, None)


def _register(types: tuple[type[nn.Module], ...], builder: Builder | None) -> None:
    for leaf_type in types:
        if leaf_type in _builders:
            raise I2PError(f"{leaf_type.__module__}.{leaf_type.__qualname__} is registered as a 2D leaf already.")
    _builders.update(dict.fromkeys(types, builder))


def take_over(layer: nn.Module, leaf: nn.Module) -> None:
    """Gives a layer all that a leaf holds: tensors and parts are shared, the tables that name them are the layer's own."""
    for name, value in vars(leaf).items():
        layer.__dict__[name] = copy.copy(value) if isinstance(value, dict | set | list) else value


def find_builder(module: nn.Module) -> Builder | None:
    """Returns the builder registered for a module's exact type, or None where it stays as it is."""
    return _builders.get(type(module))


def is_supported(module: nn.Module) -> bool:
    """Whether a module's own tensors are understood: its exact type is registered, or it is no kind of a torch layer that is.

    A module of its own kind may own tables and matrices: its forward runs as it is, and what it does with them has a meaning on
    tokens or is refused there.
    """
    return type(module) in _builders or not isinstance(module, _SPATIAL)


def supported_types() -> list[str]:
    """Returns the qualified names of all registered 2D leaves, sorted."""
    return sorted(f"{leaf_type.__module__}.{leaf_type.__qualname__}" for leaf_type in _builders)
