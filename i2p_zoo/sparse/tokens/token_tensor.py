"""TokenTensor: tokens of a batch of clouds, or pairs of them, seen by a 2D network as a tensor of any rearrangement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import Tokens, call_on_tokens, find_token_handler
from i2p_zoo.sparse.network_tensor import NetworkTensor
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import Dims, atoms, channel_extents, describe, sizes
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows


class TokenTensor(NetworkTensor, Tokens):
    """Values of tokens (or of pairs of tokens) and what the 2D network takes for their dimensions.

    Networks make it of a `SparseTensor` where they join its height and width, part it into windows or let it attend to itself.
    It answers the torch functions that have a handler (`token_op`) and gives a `SparseTensor` back where it is one again.

    Attributes:
        space: `TokenRows`, or `TokenPairs`.
        blocks: (rows, F1, F2, ...) alone, or of pairs a (G, queries, keys, F1, F2, ...) for each size of group. The feature
            dimensions are the channel atoms in the order of `dims`.
        dims: the dimensions.

    Raises:
        InvalidInputError: feature dimensions that are not the channels of `dims`.

    Example:
        >>> import torch
        >>> from i2p_zoo import image_to_plane
        >>> x = image_to_plane(torch.ones(2, 8, 4, 6))
        >>> x.flatten(2).transpose(1, 2)
        TokenTensor(shape=(2, 24, 8), dims='b (y x) c', tokens=48, dtype=torch.float32)
    """

    space: Any
    blocks: tuple[Tensor, ...]
    dims: Dims

    def __init__(self, space: TokenRows | TokenPairs, blocks: Sequence[Tensor], dims: Dims) -> None:
        self.space, self.blocks, self.dims = space, tuple(blocks), tuple(tuple(dim) for dim in dims)
        features = list(self.blocks[0].shape[self.lead :])
        if features != channel_extents(self.dims):
            raise InvalidInputError(
                f"Values of {features} channels do not fit the dimensions {describe(self.dims)}, whose channels are "
                f"{channel_extents(self.dims)}."
            )

    @property
    def lead(self) -> int:
        """How many dimensions of a block are rows."""
        return int(self.space.lead)

    @property
    def is_pairs(self) -> bool:
        """Whether the values are of pairs."""
        return isinstance(self.space, TokenPairs)

    @property
    def values(self) -> Tensor:
        """(rows, ...) of a tensor of tokens; raises UnsupportedError for pairs."""
        self._refuse_pairs()
        return self.blocks[0]

    @property
    def rows(self) -> TokenRows:
        """The rows of a tensor of tokens; raises UnsupportedError for pairs."""
        self._refuse_pairs()
        result: TokenRows = self.space
        return result

    def _refuse_pairs(self) -> None:
        if self.is_pairs:
            raise UnsupportedError(
                f"{self!r} holds a value for each pair of tokens, as attention does: this function takes tokens."
            )

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

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.dims)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to the values."""
        return any(block.requires_grad for block in self.blocks)

    def to(self, *args: Any, **kwargs: Any) -> TokenTensor:
        """Casts as `torch.Tensor.to` does.

        Raises:
            UnsupportedError: another device: the sites would stay behind. Move the cloud before the network.
        """
        if args and isinstance(args[0], TokenTensor | SparseTensor):
            args = (args[0].blocks[0] if isinstance(args[0], TokenTensor) else args[0].features, *args[1:])
        kwargs.pop("memory_format", None)
        moved = self.map(lambda block: block.to(*args, **kwargs)) if args or kwargs else self
        if moved.device != self.device:
            raise UnsupportedError(
                f"{self!r} is on {self.device} and cannot move to {moved.device}: move the cloud itself first."
            )
        return moved

    def detach(self) -> TokenTensor:
        """Returns the same tokens cut from the autograd graph."""
        return self.map(Tensor.detach)

    def __repr__(self) -> str:
        name, count = "tokens", sum(prod(block.shape[: self.lead]) for block in self.blocks)
        if self.is_pairs:
            name = "pairs"
        return f"TokenTensor(shape={self.shape}, dims='{describe(self.dims)}', {name}={count}, dtype={self.dtype})"

    # A 2D network's own code calls torch functions and tensor methods on what it thinks is a tensor; both go to one table.

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call_on_tokens(func, args, kwargs or {})

    @property
    def _stored(self) -> Tensor:
        return self.blocks[0]

    @staticmethod
    def _find_hint(function: Any) -> str | None:
        if find_token_handler(function):
            return None
        name = function.__name__
        return f"has no handler on tokens. Register a handler with `@i2p_zoo.token_op(torch.Tensor.{name})`."


def positive(x: Any, dim: int) -> int:
    """Returns a dimension counted from the front; raises InvalidInputError where a tensor has no such one."""
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        raise InvalidInputError(f"Dimension {dim!r} of {x!r}: expected {-x.ndim} to {x.ndim - 1}.")
    return dim + x.ndim if dim < 0 else dim


def feature_dim(x: TokenTensor, dim: int, name: str) -> int:
    """Returns the dimension of a block that a dimension is; raises UnsupportedError unless it is channels, of one factor."""
    dim = positive(x, dim)
    before = sum(atom.is_channel for d in x.dims[:dim] for atom in d)
    if len(x.dims[dim]) != 1 or not x.dims[dim][0].is_channel:
        raise UnsupportedError(
            f"`{name}` along dimension {dim} of {x!r}: expected channels; got {describe(x.dims[dim : dim + 1])}."
        )
    return x.lead + before


def replace_dim(x: TokenTensor, dim: int, *dims: Any) -> Dims:
    """Returns the dimensions of a tensor with one replaced by others, or by none."""
    return (*x.dims[:dim], *dims, *x.dims[dim + 1 :])


def to_dense(values: Tensor, leading: Sequence[str], dims: Dims) -> Tensor:
    """Makes a dense tensor of values whose first dimensions are site atoms.

    Args:
        values: (a dimension for each of `leading`, F1, F2, ...).
        leading: roles of atoms, "b" or "t".
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
    """Returns the blocks with feature dimensions that are split or joined to be the channels of other dimensions."""
    return [block.reshape(*block.shape[: x.lead], *channel_extents(dims)) for block in x.blocks]
