"""Linear layers, normalisation and dropout of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.batch_norm import normalize_batch
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.geometry import as_pair
from i2p_zoo.sparse.token_functions.token_dimensions import flatten, unflatten
from i2p_zoo.sparse.tokens.densification import densify
from i2p_zoo.sparse.tokens.layout import channel, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim, split_features


@token_op(F.linear)
def linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear layer of the last dimension; sites that it holds become channels."""
    x = as_tokens(x)
    if weight.shape[1] != x.shape[-1]:
        raise UnsupportedError(f"`linear` of {weight.shape[1]} channels of {x!r}, whose last dimension is {x.shape[-1]}.")
    if site_atoms((x.dims[-1],)):
        return F.linear(densify(x, -1), weight, bias)
    joined = (*x.dims[:-1], (channel(x.shape[-1]),))
    blocks = [F.linear(block, weight, bias) for block in split_features(x, joined)]
    return make_tokens(x.space, blocks, (*x.dims[:-1], (channel(weight.shape[0]),)))


def _with_last_channels(x: TokenTensor, shape: Sequence[int], name: str) -> TokenTensor:
    """The tensor with its last dimension in channels of one factor, which are to be of a size."""
    if len(shape) != 1 or x.shape[-1] != shape[0]:
        raise UnsupportedError(
            f"`{name}` over the last dimensions {tuple(shape)} of {x!r}: expected the last one, {x.shape[-1:]}."
        )
    if site_atoms((x.dims[-1],)):
        x = as_tokens(densify(x, -1))
    if isinstance(x, TokenTensor):
        dims = (*x.dims[:-1], (channel(x.shape[-1]),))
        x = TokenTensor(x.space, split_features(x, dims), dims)
    return x


@token_op(F.layer_norm)
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalises each token over the channels of its last dimension."""
    x = _with_last_channels(as_tokens(x), normalized_shape, "layer_norm")
    if isinstance(x, Tensor):
        return F.layer_norm(x, normalized_shape, weight, bias, eps)
    return make_tokens(x.space, [F.layer_norm(block, normalized_shape, weight, bias, eps) for block in x.blocks], x.dims)


@token_op(F.rms_norm)
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divides each token by the root of the mean square of its last dimension."""
    x = _with_last_channels(as_tokens(x), normalized_shape, "rms_norm")
    if isinstance(x, Tensor):
        return F.rms_norm(x, normalized_shape, weight, eps)
    return make_tokens(x.space, [F.rms_norm(block, normalized_shape, weight, eps) for block in x.blocks], x.dims)


@token_op(F.batch_norm)
def batch_norm(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Normalises the channels of dimension 1 over all tokens of the batch."""
    x = as_tokens(x)
    at = feature_dim(x, 1, "batch_norm")
    values = x.values.movedim(at, -1)
    out = normalize_batch(values.reshape(-1, values.shape[-1]), *args, **kwargs).reshape(values.shape)
    return make_tokens(x.space, [out.movedim(-1, at)], x.dims)


@token_op(F.group_norm)
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalises groups of the channels of dimension 1 over all tokens of a sample."""
    x = as_tokens(x)
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise InvalidInputError(
            f"`group_norm` of {channels} channels in {num_groups} groups: expected a divisor of {channels}."
        )
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = as_tokens(unflatten(wide, 1, (num_groups, channels // num_groups)))
    axes = list(range(2, grouped.ndim))
    centred = grouped - grouped.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    out = flatten(centred * (variance + eps).rsqrt(), 1, 2)
    shape = (1, channels, *[1] * (out.ndim - 2))
    out = out if weight is None else out * weight.reshape(shape)
    return (out if bias is None else out + bias.reshape(shape)).to(x.dtype)


def _refuse_kernel(name: str, x: Any, weight: Tensor, stride: Any, padding: Any, groups: int) -> None:
    plain = as_pair(stride) == (1, 1) and padding != "same" and as_pair(0 if padding == "valid" else padding) == (0, 0)
    if max(weight.shape[2:]) != 1 or groups != 1 or not plain:
        raise UnsupportedError(
            f"`{name}` by a dense weight of shape {tuple(weight.shape)} in {groups} groups, of {x!r}: only a kernel of 1 at "
            "stride 1. A module with a kernel of its own needs a 3D layer: register one with `@i2p_zoo.replaces(type)`."
        )


@token_op(F.conv1d)
def conv1d(
    x: Any, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Of kernel 1 only: a linear layer of the channels."""
    _refuse_kernel("conv1d", x, weight, stride, padding, groups)
    return F.linear(x.transpose(1, 2), weight[:, :, 0], bias).transpose(1, 2)


@token_op(F.conv2d)
def conv2d(
    x: Any, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Of kernel 1 only, as of the heads of pairs."""
    _refuse_kernel("conv2d", x, weight, stride, padding, groups)
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


@token_op(F.dropout2d)
def dropout2d(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Drops whole channels of a sample."""
    x = as_tokens(x)
    return x * F.dropout(x.new_ones((*x.shape[:2], *[1] * (x.ndim - 2))), p, training)
