"""TokenTensor: tokens of a batch of clouds, or pairs of them, seen by a 2D network as a tensor of any rearrangement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.dispatch import call_on_tokens, find_token_handler
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Dims, atoms, channel_extents, sizes
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows


class TokenTensor:
    """Values of tokens (or of pairs of tokens) and what the 2D network takes for their dimensions.

    Attributes:
        space: `TokenRows`, or `TokenPairs`.
        blocks: (rows, F1, F2, ...) alone, or of pairs a (G, queries, keys, F1, F2, ...) for each size of group. The feature
            dimensions are the channel atoms in the order of `dims`.
        dims: the dimensions.
    """

    is_of_tokens = True
    space: Any
    blocks: tuple[Tensor, ...]
    dims: Dims

    def __init__(self, space: TokenRows | TokenPairs, blocks: Sequence[Tensor], dims: Dims) -> None:
        self.space, self.blocks, self.dims = space, tuple(blocks), tuple(tuple(dim) for dim in dims)
        features = self.blocks[0].shape[self.lead :]
        if list(features) != channel_extents(self.dims):
            raise AssertionError(f"features {tuple(features)} do not fit {self.dims}")

    @property
    def lead(self) -> int:
        """How many dimensions of a block are rows."""
        return 1 if isinstance(self.space, TokenRows) else 3

    @property
    def is_pairs(self) -> bool:
        """Whether the values are of pairs."""
        return isinstance(self.space, TokenPairs)

    @property
    def values(self) -> Tensor:
        """(rows, ...) of a tensor of tokens."""
        if self.is_pairs:
            raise UnsupportedError(f"A function of tokens was called on pairs, {self!r}.")
        return self.blocks[0]

    @property
    def rows(self) -> TokenRows:
        """The rows of a tensor of tokens."""
        if self.is_pairs:
            raise UnsupportedError(f"A function of tokens was called on pairs, {self!r}.")
        result: TokenRows = self.space
        return result

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        rows = self.space if isinstance(self.space, TokenRows) else self.space.queries
        return int(rows.batch_size)

    def map(self, function: Callable[[Tensor], Tensor], dims: Dims | None = None) -> TokenTensor:
        """Applies a function to every block."""
        return TokenTensor(self.space, [function(block) for block in self.blocks], self.dims if dims is None else dims)

    # -- as a tensor ------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the 2D network sees: of an image as large as the canvas."""
        return sizes(self.dims)

    def size(self, dim: int | None = None) -> Any:
        """Returns `shape`, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.dims)

    ndim = property(dim)

    def numel(self) -> int:
        """The product of `shape`."""
        return prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    device = property(lambda self: self.blocks[0].device)
    dtype = property(lambda self: self.blocks[0].dtype)
    requires_grad = property(lambda self: self.blocks[0].requires_grad)
    is_cuda = property(lambda self: self.blocks[0].is_cuda)
    T = property(lambda self: self.permute(*reversed(range(self.ndim))))
    mT = property(lambda self: self.transpose(-2, -1))

    def to(self, *args: Any, **kwargs: Any) -> TokenTensor:
        """Casts as `torch.Tensor.to` does."""
        if args and isinstance(args[0], TokenTensor | SparseTensor):
            args = (args[0].dtype,)
        kwargs.pop("memory_format", None)
        return self.map(lambda block: block.to(*args, **kwargs)) if args or kwargs else self

    def float(self) -> TokenTensor:
        """Casts to float32."""
        return self.to(torch.float32)

    def double(self) -> TokenTensor:
        """Casts to float64."""
        return self.to(torch.float64)

    def type(self, dtype: Any = None) -> TokenTensor:
        """Casts to a dtype."""
        return self.to(dtype)

    def detach(self) -> TokenTensor:
        """Cuts from the autograd graph."""
        return self.map(Tensor.detach)

    def new_empty(self, *args: Any, **kwargs: Any) -> Tensor:
        """An empty dense tensor of this dtype and device."""
        return self.blocks[0].new_empty(*args, **kwargs)

    def new_zeros(self, *args: Any, **kwargs: Any) -> Tensor:
        """A dense tensor of zeros of this dtype and device."""
        return self.blocks[0].new_zeros(*args, **kwargs)

    def new_ones(self, *args: Any, **kwargs: Any) -> Tensor:
        """A dense tensor of ones of this dtype and device."""
        return self.blocks[0].new_ones(*args, **kwargs)

    def new_full(self, *args: Any, **kwargs: Any) -> Tensor:
        """A dense tensor of one value of this dtype and device."""
        return self.blocks[0].new_full(*args, **kwargs)

    def __repr__(self) -> str:
        rows = "pairs" if self.is_pairs else "tokens"
        return f"TokenTensor({rows}, shape={self.shape}, {self.space!r}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call_on_tokens(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"'TokenTensor' object has no attribute '{name}'.", name=name, obj=self)
        if find_token_handler(getattr(Tensor, name)) is None:
            raise UnsupportedError(f"`torch.Tensor.{name}` of tokens has no handler; called on {self!r}.")
        return functools.partial(_make_method(name), self)


def _make_method(name: str) -> Callable[..., Any]:
    def method(self: TokenTensor, *args: Any, **kwargs: Any) -> Any:
        return TokenTensor.__torch_function__(getattr(Tensor, name), (TokenTensor,), (self, *args), kwargs)

    method.__name__ = name
    return method


_DUNDERS = "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv neg pow getitem setitem matmul rmatmul"


for _name in _DUNDERS.split():
    setattr(TokenTensor, f"__{_name}__", _make_method(f"__{_name}__"))


def feature_dim(x: TokenTensor, dim: int, name: str) -> int:
    """The number of the feature dimension (in a block) that a dimension is; it must be channels alone."""
    dim = dim + x.ndim if dim < 0 else dim
    before = sum(atom.is_channel for d in x.dims[:dim] for atom in d)
    if len(x.dims[dim]) != 1 or not x.dims[dim][0].is_channel:
        raise UnsupportedError(f"`{name}` along dimension {dim} of {x!r}: {x.dims[dim]} is no channels.")
    return x.lead + before


def positive(x: Any, dim: int) -> int:
    """A dimension counted from the front."""
    return dim + x.ndim if dim < 0 else dim


def to_dense(values: Tensor, leading: Sequence[str], dims: Dims) -> Tensor:
    """Makes a dense tensor of values whose first dimensions are site atoms.

    Args:
        values: (a dimension for each of `leading`, F1, F2, ...).
        leading: kinds of atoms, "b" or "t".
        dims: what to make; its site atoms are those of `leading`.
    """
    order, feature = [], len(leading)
    for atom in atoms(dims):
        if atom.is_channel:
            order.append(feature)
            feature += 1
        else:
            order.append(list(leading).index(atom.role))
    return values.permute(order).reshape(sizes(dims))


def from_dense(dense: Tensor, dims: Dims, leading: Sequence[str]) -> Tensor:
    """Undoes `to_dense`."""
    split = dense.reshape([atom.extent for atom in atoms(dims)])
    order = [next(i for i, atom in enumerate(atoms(dims)) if atom.role == role) for role in leading]
    order += [i for i, atom in enumerate(atoms(dims)) if atom.is_channel]
    return split.permute(order)


def split_features(x: TokenTensor, dims: Dims) -> list[Tensor]:
    shape = [atom.extent for dim in dims for atom in dim if atom.is_channel]
    return [block.reshape(*block.shape[: x.lead], *shape) for block in x.blocks]
