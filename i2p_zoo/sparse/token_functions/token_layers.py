"""Linear layers, normalisation and dropout of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.batch_norm import normalize_batch
from i2p_zoo.sparse.dispatch import token_op
from i2p_zoo.sparse.token_functions.token_dimensions import flatten, unflatten
from i2p_zoo.sparse.tokens.densification import densify
from i2p_zoo.sparse.tokens.layout import channel, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, feature_dim


@token_op(F.linear)
def linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear layer of the last dimension; sites that it holds become channels."""
    x = as_tokens(x)
    if site_atoms((x.dims[-1],)):
        return F.linear(densify(x, -1), weight, bias)
    dims = (*x.dims[:-1], (channel(weight.shape[0]),))
    blocks = [F.linear(block if x.dims[-1] else block.unsqueeze(-1), weight, bias) for block in x.blocks]
    return make_tokens(x.space, blocks, dims)


def _flat_last(x: TokenTensor, shape: Sequence[int], name: str) -> TokenTensor:
    if site_atoms((x.dims[-1],)):
        x = as_tokens(densify(x, -1))
    if len(shape) != 1 or x.shape[-1] != shape[0] or site_atoms((x.dims[-1],)):
        raise UnsupportedError(f"`{name}` over the last dimensions {tuple(shape)} of {x!r}.")
    return x


@token_op(F.layer_norm)
def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    x = _flat_last(as_tokens(x), normalized_shape, "layer_norm")
    return make_tokens(x.space, [F.layer_norm(block, normalized_shape, weight, bias, eps) for block in x.blocks], x.dims)


@token_op(F.rms_norm)
def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    x = _flat_last(as_tokens(x), normalized_shape, "rms_norm")
    return make_tokens(x.space, [F.rms_norm(block, normalized_shape, weight, eps) for block in x.blocks], x.dims)


@token_op(F.batch_norm)
def batch_norm(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Normalises the channels of dimension 1 over all tokens of the batch."""
    x = as_tokens(x)
    at = feature_dim(x, 1, "batch_norm")
    values = x.values.movedim(at, 1)
    flat = values.flatten(2).transpose(1, 2).flatten(0, 1) if values.ndim > 2 else values
    out = normalize_batch(flat, *args, **kwargs)
    if values.ndim > 2:
        out = out.unflatten(0, (len(values), -1)).transpose(1, 2).reshape(values.shape)
    return make_tokens(x.space, [out.movedim(1, at)], x.dims)


@token_op(F.group_norm)
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    x = as_tokens(x)
    channels = x.shape[1]
    grouped = as_tokens(unflatten(x, 1, (num_groups, channels // num_groups)))
    axes = [i for i in range(2, grouped.ndim)]
    mean = grouped.mean(axes, keepdim=True)
    centred = grouped - mean
    variance = (centred * centred).mean(axes, keepdim=True)
    out = flatten(centred * (variance + eps).rsqrt(), 1, 2)
    shape = (1, channels, *[1] * (out.ndim - 2))
    out = out if weight is None else out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


@token_op(F.conv1d)
def conv1d(
    x: Any, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """Of kernel 1 only: a linear layer of the channels."""
    if weight.shape[2] != 1 or groups != 1:
        raise UnsupportedError(f"`conv1d` of kernel {weight.shape[2]} along the tokens of {x!r}.")
    return F.linear(x.transpose(1, 2), weight[:, :, 0], bias).transpose(1, 2)


@token_op(F.conv2d)
def conv2d(x: Any, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Of kernel 1 only, as of the heads of pairs."""
    x = as_tokens(x)
    if weight.shape[2:] != (1, 1) or kwargs.get("groups", args[3] if len(args) > 3 else 1) != 1:
        raise UnsupportedError(f"`conv2d` of kernel {tuple(weight.shape[2:])} on {x!r}.")
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


@token_op(F.dropout2d)
def dropout2d(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    x = as_tokens(x)
    return x * F.dropout(x.new_ones((*x.shape[:2], *[1] * (x.ndim - 2))), p, training)
