"""Arithmetic of two tensors: on the same sites, or with a dense gate of a value a sample or a channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import CoordinateMismatchError, InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, sparse_op, token_op
from i2p_zoo.sparse.function_lists import as_operand, register_arithmetic
from i2p_zoo.sparse.tensor import SparseTensor


def operand(x: SparseTensor, other: Any, name: str) -> Any:
    """Returns what to combine with `x.features`: a scalar, features on the same sites, or a gate's row for each voxel.

    Raises:
        CoordinateMismatchError: another sparse tensor on other sites.
        UnsupportedError: a dense tensor with spatial extent, which has no value a voxel.
    """
    if isinstance(other, SparseTensor):
        check_same_sites(x, other, name)
        return other.features
    if not isinstance(other, Tensor) or other.ndim == 0 or other.numel() == 1:
        return other if not isinstance(other, Tensor) else other.reshape(())
    shape = (1,) * (x.ndim - other.ndim) + tuple(other.shape)
    height, width = x.site_dims
    if len(shape) > x.ndim or (shape[height], shape[width]) != (1, 1):
        raise UnsupportedError(
            f"`{name}` of {x!r}, which is seen as {x.shape}, and a dense tensor of shape {tuple(other.shape)}: it must have "
            f"1 in dimensions {height} and {width} (height, width), since a dense tensor has no value for a voxel."
        )
    values = other.reshape(shape).squeeze(x.site_dims)  # (B or 1, C1, ...)
    if values.shape[0] not in (1, x.batch_size):
        raise InvalidInputError(f"`{name}`: a gate of {values.shape[0]} samples does not fit a batch of {x.batch_size}.")
    return values if values.shape[0] == 1 else x.batch_index.take(values)


def check_same_sites(x: SparseTensor, other: SparseTensor, name: str) -> None:
    """Raises CoordinateMismatchError unless both have one extent and stand on the same sites, in the same row order."""
    if x is other:
        return
    same = x.coords is other.coords or (x.stride == other.stride and torch.equal(x.coords, other.coords))
    views = [(t.spatial_shape, t.padding, t.channels_last) for t in (x, other)]
    if not same or views[0] != views[1]:
        raise CoordinateMismatchError(
            f"`{name}` needs both tensors on the same voxels; got {x!r} and {other!r}. Branches meet on the same sites when "
            "their strided layers start from the same tensor."
        )


def _binary(compute: Any, function: Any, *, reflected: bool) -> None:
    name = compute.__name__

    @sparse_op(function)
    def binary(input: Any, other: Any, *, alpha: float = 1) -> SparseTensor:  # torch's names, by which some call
        x, rest = (input, other) if isinstance(input, SparseTensor) else (other, input)
        value = operand(x, rest, name)
        first = isinstance(input, SparseTensor) != reflected
        a, b = (x.features, value) if first else (value, x.features)
        extra = {} if alpha == 1 else {"alpha": alpha}
        if not isinstance(a, Tensor):
            a = as_operand(a, x.features)
        result: SparseTensor = x.derive(compute(a, b, **extra))
        return result

    binary.__qualname__ = name


def _in_place(compute: Any, function: Any) -> None:
    name = f"{compute.__name__}_"
    method = getattr(Tensor, name)

    @sparse_op(function)
    def in_place(x: Any, other: Any, *, alpha: float = 1) -> SparseTensor:
        if not isinstance(x, SparseTensor):
            raise UnsupportedError(f"`{name}` cannot write {other!r} into a dense tensor.")
        extra = {} if alpha == 1 else {"alpha": alpha}
        method(x.features, operand(x, other, name), **extra)
        return x

    in_place.__qualname__ = name


register_arithmetic(_binary, _in_place)


@token_op(*methods("addcmul"))
@sparse_op(*methods("addcmul"))
def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """Input + value * tensor1 * tensor2, any of the three voxels or tokens."""
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)
