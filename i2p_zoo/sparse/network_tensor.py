"""NetworkTensor: the methods and operators of torch.Tensor that voxels and tokens share, as a 2D network calls them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from i2p_zoo.errors import MissingMethodError

AnyTensor = TypeVar("AnyTensor", bound="NetworkTensor")


class NetworkTensor(ABC):
    """Base of what a 2D network takes for a tensor.

    A subclass defines what is abstract here and `__torch_function__`, which looks functions up in a table (`dispatch`). Methods
    of torch.Tensor that nothing defines go there too.

    Raises:
        MissingMethodError: a method of torch.Tensor that has no handler; AttributeError, any other name.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape that the 2D network sees."""

    @abstractmethod
    def dim(self) -> int:
        """Returns the number of dimensions of `shape`."""

    ndim = property(lambda self: self.dim())

    @property
    @abstractmethod
    def _stored(self) -> Tensor:
        """A tensor that holds the values, or some of them."""

    @staticmethod
    @abstractmethod
    def _find_hint(function: Any) -> str | None:
        """None for a function that has a handler; else how to register one, and where there is none."""

    @abstractmethod
    def to(self: AnyTensor, *args: Any, **kwargs: Any) -> AnyTensor:
        """Casts as `torch.Tensor.to` does."""

    def size(self, dim: int | None = None) -> Any:
        """Returns `shape`, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Returns the product of `shape`."""
        return prod(self.shape)

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self._stored.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self._stored.dtype

    is_cuda = property(lambda self: self._stored.is_cuda)
    T = property(lambda self: self.permute(*reversed(range(self.ndim))))
    mT = property(lambda self: self.transpose(-2, -1))  # noqa: N815 - torch's name

    def float(self: AnyTensor) -> AnyTensor:
        """Casts to float32."""
        return self.to(torch.float32)

    def double(self: AnyTensor) -> AnyTensor:
        """Casts to float64."""
        return self.to(torch.float64)

    def half(self: AnyTensor) -> AnyTensor:
        """Casts to float16."""
        return self.to(torch.float16)

    def bfloat16(self: AnyTensor) -> AnyTensor:
        """Casts to bfloat16."""
        return self.to(torch.bfloat16)

    def type(self: AnyTensor, dtype: torch.dtype) -> AnyTensor:
        """Casts to a dtype."""
        return self.to(dtype)

    def is_floating_point(self) -> bool:
        """Whether the values are floating point."""
        return self._stored.is_floating_point()

    def new_empty(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns an empty dense tensor of this dtype and device (`torch.Tensor.new_empty`)."""
        return self._stored.new_empty(*args, **kwargs)

    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns a dense tensor of zeros of this dtype and device (`torch.Tensor.new_zeros`)."""
        return self._stored.new_zeros(*args, **kwargs)

    def new_ones(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns a dense tensor of ones of this dtype and device (`torch.Tensor.new_ones`)."""
        return self._stored.new_ones(*args, **kwargs)

    def new_full(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns a dense tensor of one value of this dtype and device (`torch.Tensor.new_full`)."""
        return self._stored.new_full(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        message = f"'{type(self).__name__}' object has no attribute '{name}'"
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"{message}.", name=name, obj=self)
        if hint := self._find_hint(getattr(Tensor, name)):
            raise MissingMethodError(f"{message}: `torch.Tensor.{name}` {hint}")
        return functools.partial(_make_method(name), self)


def _make_method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return type(self).__torch_function__(getattr(Tensor, name), (type(self),), (self, *args), kwargs)

    method.__name__ = name
    return method


_OPERATORS = "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv neg pow getitem setitem matmul rmatmul"
for _name in _OPERATORS.split():
    setattr(NetworkTensor, f"__{_name}__", _make_method(f"__{_name}__"))
