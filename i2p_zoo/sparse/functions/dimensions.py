"""Dimensions: joining, splitting, permuting, reshaping and indexing channels, and cropping the image's sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.dispatch import methods, sparse_op
from i2p_zoo.sparse.functions.arithmetic import check_same_sites
from i2p_zoo.sparse.tensor import SparseTensor


def channel_dim(x: SparseTensor, dim: int, name: str, *, new: bool = False) -> int:
    """Returns the features' dimension for one of the tensor that `x` stands for.

    Args:
        x: the tensor.
        dim: a channel dimension, as torch counts them.
        name: of the function, for the error.
        new: the dimension is to be made, before the channel dimension that has this number now.

    Raises:
        UnsupportedError: the dimension is the batch's, the height or the width.
    """
    if not isinstance(dim, int):
        raise UnsupportedError(f"`{name}` of {x!r} needs one dimension; got {dim!r}.")
    rank = x.ndim + new
    positive = dim + rank if dim < 0 else dim
    first, last = (3, rank - 1) if x.channels_last else (1, rank - 3)
    if not first <= positive <= last:
        raise UnsupportedError(
            f"`{name}` along dimension {dim} of {x!r}, which is seen as {x.shape}: only channel dimensions, {first} to {last}, "
            f"can be {'made' if new else 'used'}."
        )
    return positive - first + 1


@sparse_op(*methods("cat", "concat"), takes_padding=True)
def cat(tensors: Sequence[Any], dim: int = 0) -> SparseTensor:
    """Joins the channels of tensors on the same sites."""
    x = next(t for t in tensors if isinstance(t, SparseTensor))
    parts = [_sparse_part(x, t, "cat") for t in tensors]
    return x.derive(torch.cat(parts, channel_dim(x, dim, "cat")))


@sparse_op(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> SparseTensor:
    """Stacks tensors on the same sites along a new channel dimension."""
    x = next(t for t in tensors if isinstance(t, SparseTensor))
    parts = [_sparse_part(x, t, "stack") for t in tensors]
    return x.derive(torch.stack(parts, channel_dim(x, dim, "stack", new=True)))


def _sparse_part(x: SparseTensor, other: Any, name: str) -> Tensor:
    if not isinstance(other, SparseTensor):
        raise UnsupportedError(f"`{name}` of a sparse tensor and a dense one of shape {tuple(other.shape)}.")
    check_same_sites(x, other, name)
    return other.features


def _register_splitting(function: Any) -> None:
    name = function.__name__
    inner = getattr(torch, name)

    @sparse_op(function)
    def splitting(x: SparseTensor, *args: Any, **kwargs: Any) -> tuple[SparseTensor, ...]:
        count = 0 if name == "unbind" else 1
        dim = channel_dim(x, kwargs.pop("dim", args[count] if len(args) > count else 0), name)
        return tuple(x.derive(part) for part in inner(x.features, *args[:count], dim=dim, **kwargs))

    splitting.__qualname__ = name


for _function in methods("chunk", "split", "unbind", "tensor_split"):
    _register_splitting(_function)


@sparse_op(*methods("softmax"))
def softmax(x: SparseTensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> SparseTensor:
    """Softmax along a channel dimension."""
    return x.derive(torch.softmax(x.features, channel_dim(x, dim, "softmax"), dtype=dtype))


@sparse_op(*methods("unsqueeze"))
def unsqueeze(x: SparseTensor, dim: int) -> SparseTensor:
    """Adds a channel dimension of length 1."""
    return x.derive(x.features.unsqueeze(channel_dim(x, dim, "unsqueeze", new=True)))


@sparse_op(*methods("reshape", "view"))
def reshape(x: SparseTensor, *shape: Any) -> SparseTensor:
    """Reshapes channel dimensions; the batch and the image's height and width must stay."""
    sizes = list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape)
    sites = slice(1, 3) if x.channels_last else slice(-2, None)
    if len(sizes) < 4 or sizes[0] not in (x.batch_size, -1) or tuple(sizes[sites]) != tuple(x.shape[i] for i in x.site_dims):
        raise UnsupportedError(f"`reshape` of {x!r}, shape {x.shape}, to {tuple(sizes)}: only channels can be reshaped.")
    del sizes[sites]
    return x.derive(x.features.reshape(x.features.shape[0], *sizes[1:]))


@sparse_op(*methods("permute"))
def permute(x: SparseTensor, *dims: Any) -> SparseTensor:
    """Permutes channels, and puts them before height and width or behind."""
    order = list(dims[0]) if len(dims) == 1 and not isinstance(dims[0], int) else list(dims)
    order = [d + x.ndim if d < 0 else d for d in order]
    height, width = x.site_dims
    if sorted(order) != list(range(x.ndim)):
        raise InvalidInputError(f"`permute` of {x!r}, which has {x.ndim} dimensions, by {dims}: not a permutation of them.")
    at = order.index(height)
    if order[0] != 0 or order[at + 1 : at + 2] != [width] or at not in (1, x.ndim - 2):
        raise UnsupportedError(
            f"`permute` of {x!r} by {tuple(order)}: the batch stays first, and height and width stay together, before all "
            "channels or behind."
        )
    channels = [channel_dim(x, d, "permute") for d in order if d not in (0, height, width)]
    return x.derive(x.features.permute(0, *channels), channels_last=at == 1 and bool(channels))


@sparse_op(*methods("transpose", "swapaxes"))
def transpose(x: SparseTensor, dim0: int, dim1: int) -> SparseTensor:
    """Exchanges two channel dimensions."""
    order = list(range(x.ndim))
    if not all(isinstance(dim, int) and -x.ndim <= dim < x.ndim for dim in (dim0, dim1)):
        raise InvalidInputError(f"`transpose` of {x!r}, which has {x.ndim} dimensions, got {dim0!r} and {dim1!r}.")
    order[dim0], order[dim1] = order[dim1], order[dim0]
    result: SparseTensor = permute(x, order)
    return result


@sparse_op(torch.Tensor.expand_as)
def expand_as(x: Any, other: Any) -> Any:
    """Leaves a gate as it is: arithmetic broadcasts it."""
    return x


@sparse_op(torch.Tensor.__getitem__, takes_padding=True)
def getitem(x: SparseTensor, index: Any) -> SparseTensor:
    """Indexes channels, makes new ones by None, and crops the image's dimensions by slices `start:stop`."""
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in indices if not isinstance(i, Tensor)]:
        at = indices.index(Ellipsis)
        indices[at : at + 1] = [slice(None)] * (x.ndim - sum(i is not None for i in indices) + 1)
    indices += [slice(None)] * (x.ndim - sum(i is not None for i in indices))
    dim = 0
    channels: list[Any] = []
    sites: list[Any] = []
    first, last = (3, x.ndim) if x.channels_last else (1, x.ndim - 2)
    for i in indices:
        if i is None and not first <= dim <= last:
            raise UnsupportedError(f"Indexing {x!r} with {index!r}: new dimensions can be made among channels only.")
        (sites if dim in x.site_dims and i is not None else channels).append(i)
        dim += i is not None
    whole = slice(None)
    if not all(isinstance(i, slice) and i.step in (None, 1) for i in (channels[0], *sites)) or channels[0] != whole:
        raise UnsupportedError(f"Indexing {x!r} with {index!r}: only channels, and steps of 1 along height and width.")
    result = x.derive(x.features[tuple(channels)])
    if sites == [whole, whole]:
        return result
    if x.spatial_shape is None and any((i.start or 0) < 0 for i in sites):
        raise UnsupportedError(f"Indexing {x!r} with {index!r}: a cloud without a border has no end to count from.")
    pads = []
    for dim, part in zip(x.site_dims, sites, strict=True):
        start, stop, _ = part.indices(x.shape[dim])
        pads.append((-start, stop - x.shape[dim]))
    return result.apply_padding().pad_sites(pads[0], pads[1])
