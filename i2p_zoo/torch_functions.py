"""The table of torch functions that a 2D network may call on a sparse tensor: `@sparse_op(function, ...)`.

A sparse tensor with features (N, C1, C2, ...) stands for a (B, C1, C2, ..., H, W) tensor: its channel dimensions have the
same numbers in both, and the last two are the image's. A call that has no meaning on sites raises; nothing falls through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.coordinates import derive_sites
from i2p_zoo.errors import CoordinateMismatchError, I2PError, InvalidInputError, UnsupportedError
from i2p_zoo.pooling import average_pool, max_pool, reduce_sites, upsample_nearest
from i2p_zoo.sparse_tensor import UNBOUNDED, SparseTensor, _handlers
from i2p_zoo.windows import as_pair, insert_axis, plan_window

Handler = Callable[..., Any]


def sparse_op(*functions: Any) -> Callable[[Handler], Handler]:
    """Registers the decorated function as the handler of torch functions on sparse tensors.

    Args:
        *functions: torch function objects (`torch.relu`) or tensor methods (`torch.Tensor.relu`).

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
        return handler

    return register


def _methods(*names: str) -> list[Any]:
    """The functions of these names in torch, torch.nn.functional and torch.Tensor, each once."""
    found = [getattr(space, name, None) for name in names for space in (torch, F, Tensor)]
    return list(dict.fromkeys(function for function in found if function is not None))


# Functions of each value alone act on the features.


def _register_elementwise(function: Any) -> None:
    @sparse_op(function)
    def elementwise(x: Any, *args: Any, **kwargs: Any) -> SparseTensor:
        if not isinstance(x, SparseTensor) or any(isinstance(a, SparseTensor) for a in (*args, *kwargs.values())):
            raise UnsupportedError(f"`{function.__name__}` takes one sparse tensor, its first argument, and numbers.")
        result = function(x.features, *args, **kwargs)
        return x if result is x.features else x.derive(result)

    elementwise.__qualname__ = f"elementwise {function.__name__}"


_ELEMENTWISE = """
    relu relu_ relu6 silu sigmoid sigmoid_ logsigmoid hardswish hardsigmoid hardtanh hardtanh_ tanh tanh_ gelu mish elu elu_
    celu selu leaky_relu leaky_relu_ softplus softsign tanhshrink threshold rrelu dropout alpha_dropout clamp clamp_ clamp_min
    clamp_max exp log sqrt rsqrt square abs neg reciprocal clone contiguous nan_to_num to type_as __neg__ __pow__ pow
""".split()
for _function in _methods(*_ELEMENTWISE):
    if _function not in (torch.Tensor.to,):
        _register_elementwise(_function)


@sparse_op(F.batch_norm)
def batch_norm(x: SparseTensor, *args: Any, **kwargs: Any) -> SparseTensor:
    """Normalises over all voxels of the batch, as it does over all pixels in 2D."""
    return x.derive(F.batch_norm(x.features, *args, **kwargs))


@sparse_op(F.prelu)
def prelu(x: SparseTensor, weight: Tensor) -> SparseTensor:
    """Applies a slope a channel (dimension 1 of the features)."""
    return x.derive(F.prelu(x.features, weight))


@sparse_op(F.dropout2d)
def dropout2d(x: SparseTensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> SparseTensor:
    """Drops whole channels of a sample."""
    gate = F.dropout(x.features.new_ones((x.batch_size, *x.features.shape[1:])), p, training)
    return x.derive(x.features * gate[x.batch_rows])


# Arithmetic of two tensors: the same sites, or a dense gate a sample or a channel.


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
    if other.shape[-2:] != (1, 1):
        raise UnsupportedError(
            f"`{name}` of {x!r} and a dense tensor of shape {tuple(other.shape)}: the last two dimensions (height, width) "
            "must be 1, since a dense tensor has no value for a voxel."
        )
    values = other.reshape(other.shape[:-2])  # (B, C1, ...), (C1, ...) or less, aligned on the right
    if values.ndim > x.features.ndim:
        raise UnsupportedError(f"`{name}` of {x!r} and a gate of more dimensions, {tuple(other.shape)}.")
    if values.ndim == x.features.ndim and values.shape[0] not in (1, x.batch_size):
        raise InvalidInputError(f"`{name}`: a gate of {values.shape[0]} samples does not fit a batch of {x.batch_size}.")
    if values.ndim == x.features.ndim and values.shape[0] != 1:
        return values.index_select(0, x.batch_rows)
    return values


def check_same_sites(x: SparseTensor, other: SparseTensor, name: str) -> None:
    """Raises CoordinateMismatchError unless both have one extent and stand on the same sites, in the same row order."""
    same = x.coords is other.coords or (x.stride == other.stride and torch.equal(x.coords, other.coords))
    if not same or x.spatial_shape != other.spatial_shape:
        raise CoordinateMismatchError(
            f"`{name}` needs both tensors on the same voxels; got {x!r} and {other!r}. Branches meet on the same sites when "
            "their strided layers start from the same tensor."
        )


def _register_binary(compute: Any, *names: str) -> None:
    plain = _methods(*names, *(f"__{name}__" for name in names))
    reflected = _methods(*(f"__r{name}__" for name in names))
    for function in plain + reflected:
        _binary(compute, function, reflected=function in reflected)
    for function in _methods(*(f"{name}_" for name in names), *(f"__i{name}__" for name in names)):
        _in_place(compute, function)


def _binary(compute: Any, function: Any, *, reflected: bool) -> None:
    name = compute.__name__

    @sparse_op(function)
    def binary(left: Any, right: Any, *, alpha: float = 1) -> SparseTensor:
        x, other = (left, right) if isinstance(left, SparseTensor) else (right, left)
        value = operand(x, other, name)
        first = isinstance(left, SparseTensor) != reflected
        a, b = (x.features, value) if first else (value, x.features)
        extra = {} if alpha == 1 else {"alpha": alpha}
        if not isinstance(a, Tensor):
            a = x.features.new_tensor(a)
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


_register_binary(torch.add, "add")
_register_binary(torch.sub, "sub")
_register_binary(torch.mul, "mul")
_register_binary(torch.div, "div", "truediv", "true_divide")
_register_binary(torch.maximum, "maximum")
_register_binary(torch.minimum, "minimum")


# Dimensions: channel dimensions keep their numbers; the last two are the sites.


def channel_dim(x: SparseTensor, dim: int, name: str) -> int:
    """Returns the features' dimension for a logical one; raises UnsupportedError for batch, height and width."""
    if not isinstance(dim, int):
        raise UnsupportedError(f"`{name}` of {x!r} needs one dimension; got {dim!r}.")
    positive = dim + x.ndim if dim < 0 else dim
    if not 1 <= positive <= x.ndim - 3:
        raise UnsupportedError(
            f"`{name}` along dimension {dim} of {x!r}: only channel dimensions, 1 to {x.ndim - 3}, can be used."
        )
    return positive


@sparse_op(*_methods("cat", "concat"))
def cat(tensors: Sequence[Any], dim: int = 0) -> SparseTensor:
    """Joins the channels of tensors on the same sites."""
    x = next(t for t in tensors if isinstance(t, SparseTensor))
    parts = [_sparse_part(x, t, "cat") for t in tensors]
    return x.derive(torch.cat(parts, channel_dim(x, dim, "cat")))


@sparse_op(torch.stack)
def stack(tensors: Sequence[Any], dim: int = 0) -> SparseTensor:
    """Stacks tensors on the same sites along a new channel dimension."""
    x = next(t for t in tensors if isinstance(t, SparseTensor))
    if not 1 <= dim <= x.ndim - 2:
        raise UnsupportedError(f"`stack` along dimension {dim}: only channel dimensions, 1 to {x.ndim - 2}, can be made.")
    return x.derive(torch.stack([_sparse_part(x, t, "stack") for t in tensors], dim))


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


for _function in _methods("chunk", "split", "unbind", "tensor_split"):
    _register_splitting(_function)


@sparse_op(*_methods("softmax"))
def softmax(x: SparseTensor, dim: int, _stacklevel: int = 3, dtype: Any = None) -> SparseTensor:
    """Softmax along a channel dimension."""
    return x.derive(torch.softmax(x.features, channel_dim(x, dim, "softmax"), dtype=dtype))


@sparse_op(*_methods("unsqueeze"))
def unsqueeze(x: SparseTensor, dim: int) -> SparseTensor:
    """Adds a channel dimension of length 1."""
    if not 1 <= dim <= x.ndim - 2:
        raise UnsupportedError(f"`unsqueeze` at dimension {dim} of {x!r}: only 1 to {x.ndim - 2} can be made.")
    return x.derive(x.features.unsqueeze(dim))


@sparse_op(*_methods("reshape", "view"))
def reshape(x: SparseTensor, *shape: Any) -> SparseTensor:
    """Reshapes channel dimensions; the batch and the last two, the image's, must stay."""
    sizes = list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape)
    if len(sizes) < 4 or sizes[0] not in (x.batch_size, -1) or tuple(sizes[-2:]) != x.shape[-2:]:
        raise UnsupportedError(f"`reshape` of {x!r}, shape {x.shape}, to {tuple(sizes)}: only channels can be reshaped.")
    return x.derive(x.features.reshape(len(x.features), *sizes[1:-2]))


@sparse_op(torch.Tensor.expand_as)
def expand_as(x: Any, other: Any) -> Any:
    """Leaves a gate as it is: arithmetic broadcasts it."""
    return x


@sparse_op(torch.Tensor.__getitem__)
def getitem(x: SparseTensor, index: Any) -> SparseTensor:
    """Indexes channels, and crops the image's dimensions by slices `start:stop`."""
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in indices if not isinstance(i, Tensor)]:
        at = indices.index(Ellipsis)
        indices[at : at + 1] = [slice(None)] * (x.ndim - len(indices) + 1)
    indices += [slice(None)] * (x.ndim - len(indices))
    full = slice(None)
    samples, *_, rows, columns = indices
    if not all(isinstance(i, slice) and i.step in (None, 1) for i in (samples, rows, columns)) or samples != full:
        raise UnsupportedError(f"Indexing {x!r} with {index!r}: only channels, and steps of 1 along height and width.")
    channels = (full, *indices[1:-2])
    result = x.derive(x.features[channels])
    if indices[-2:] == [full, full]:
        return result
    pads = []
    for extent, part in zip(x.shape[-2:], indices[-2:], strict=True):
        start, stop, _ = part.indices(extent)
        pads.append((-start, stop - extent))
    return pad_sites(result, pads[0], pads[1])


# Reductions: over sites to one dense row a sample, over channels to a sparse tensor.


def _register_reduction(how: str, *names: str) -> None:
    @sparse_op(*_methods(*names))
    def reduction(x: SparseTensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
        x = x if dtype is None else x.derive(x.features.to(dtype))
        dims = range(x.ndim) if dim is None else ([dim] if isinstance(dim, int) else list(dim))
        positive = sorted({d + x.ndim if d < 0 else d for d in dims})
        sites = {x.ndim - 2, x.ndim - 1}
        channels = [d for d in positive if d not in sites and d != 0]
        if channels and channels == positive:
            return x.derive(getattr(torch, how)(x.features, dim=channels, keepdim=keepdim))
        if not sites <= set(positive) or 0 in positive:
            raise UnsupportedError(f"`{how}` over dimensions {dim} of {x!r}: height and width go together, the batch stays.")
        dense = reduce_sites(x, how)
        dense = dense[..., None, None] if keepdim else dense
        return getattr(torch, how)(dense, dim=channels, keepdim=keepdim) if channels else dense

    reduction.__qualname__ = how


_register_reduction("mean", "mean")
_register_reduction("sum", "sum")
_register_reduction("amax", "amax")


def _register_maximum() -> None:
    @sparse_op(torch.max, Tensor.max)
    def maximum(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, SparseTensor | Tensor):
            return _handlers[torch.maximum](x, dim)
        values, indices = torch.max(x.features, channel_dim(x, dim, "max"), keepdim)
        return torch.return_types.max((x.derive(values), x.derive(indices)))


_register_maximum()


# Windows.


@sparse_op(F.max_pool2d, torch.max_pool2d)
def max_pool2d(
    x: SparseTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SparseTensor:
    """Maximum over the active voxels of a cubic window."""
    if return_indices:
        raise UnsupportedError("`max_pool2d` on a sparse tensor cannot return indices.")
    kernel, pads = as_pair(kernel_size), as_pair(padding)
    window, level = plan_window(
        x, kernel, as_pair(stride or kernel), ((pads[0],) * 2, (pads[1],) * 2), as_pair(dilation), ceil_mode=ceil_mode
    )
    return max_pool(x, window, level)


@sparse_op(F.avg_pool2d)
def avg_pool2d(
    x: SparseTensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> SparseTensor:
    """Average over a cubic window (`i2p_zoo.pooling.average_pool`)."""
    kernel, pads = as_pair(kernel_size), as_pair(padding)
    window, level = plan_window(x, kernel, as_pair(stride or kernel), ((pads[0],) * 2, (pads[1],) * 2), ceil_mode=ceil_mode)
    return average_pool(x, window, level, count_padding=count_include_pad, divisor=divisor_override)


def _global_pool(x: SparseTensor, output_size: Any, how: str, name: str) -> Any:
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if size == (1, 1):
        return reduce_sites(x, how)[..., None, None]
    if all(s is None or s == e for s, e in zip(size, x.shape[-2:], strict=True)):
        return x
    raise UnsupportedError(f"`{name}` of {x!r} to {output_size}: a sparse tensor can be pooled to 1 or to its own extent only.")


@sparse_op(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(x: SparseTensor, output_size: Any) -> Any:
    """Mean over each sample's voxels, (B, C, 1, 1)."""
    return _global_pool(x, output_size, "mean", "adaptive_avg_pool2d")


@sparse_op(F.adaptive_max_pool2d)
def adaptive_max_pool2d(x: SparseTensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over each sample's voxels, (B, C, 1, 1)."""
    return _global_pool(x, output_size, "amax", "adaptive_max_pool2d")


@sparse_op(*_methods("pad"))
def pad(x: SparseTensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> SparseTensor:
    """Pads height and width by zeros (or by -inf before a maximum): sites shift, the extent grows."""
    if mode != "constant" or value not in (None, 0, -math.inf) or any(pad[4:]):
        raise UnsupportedError(
            f"`pad` of {x!r} by {tuple(pad)} with mode={mode!r}, value={value}: only zeros around the image."
        )
    left, right, top, bottom = [*pad, 0, 0][:4]
    return pad_sites(x, (top, bottom), (left, right))


def pad_sites(x: SparseTensor, rows: tuple[int, int], columns: tuple[int, int]) -> SparseTensor:
    """Shifts sites by the padding before them and grows (or, negative, crops) the extent."""
    axis = x.plan.axis
    shift = insert_axis((-rows[0], -columns[0]), 0, axis)
    if x.spatial_shape is None:
        coords = derive_sites(x.cache, x.coords, None, (1, 1, 1), shift, None)
        return x.derive(x.features, coords=coords)
    old = x.spatial_shape
    grown = insert_axis((rows[0] + rows[1], columns[0] + columns[1]), 0, axis)
    shape = (old[0] + grown[0], old[1] + grown[1], old[2] + grown[2])
    if min(shape) < 1:
        raise InvalidInputError(f"Padding {x!r} by {rows} and {columns} (height, width) leaves the extent {shape}.")
    coords = derive_sites(x.cache, x.coords, old, (1, 1, 1), shift, shape)
    features = x.features
    if len(coords) != len(x.coords):
        limit = torch.tensor(shape, device=coords.device) + torch.tensor(shift, device=coords.device)
        low = torch.tensor(shift, device=coords.device)
        features = features[((x.coords[:, 1:] >= low) & (x.coords[:, 1:] < limit)).all(1)]
    return x.derive(features, coords=coords, spatial_shape=shape)


@sparse_op(F.interpolate)
def interpolate(
    x: SparseTensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> SparseTensor:
    """Nearest up-sampling onto the finer sites that the tensor was strided from."""
    if mode != "nearest":
        raise UnsupportedError(f"`interpolate` of {x!r} with mode={mode!r}: only 'nearest' has a sparse counterpart.")
    if scale_factor is not None:
        factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor]
    else:
        wanted, extents = as_pair(size), x.shape[-2:]
        if UNBOUNDED in extents and wanted != extents:
            raise UnsupportedError(f"`interpolate` of {x!r} to size {size}: a cloud without a border has no size.")
        factors = [w / e for w, e in zip(wanted, extents, strict=True)]
    if any(factor != factors[0] or factor != int(factor) for factor in factors):
        raise UnsupportedError(f"`interpolate` of {x!r} by {factors}: only one whole factor.")
    return x if factors[0] == 1 else upsample_nearest(x, int(factors[0]))
