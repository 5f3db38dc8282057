"""Normalisation, linear layers and dropout, which know channels from sites."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.batch_norm import normalize_batch
from i2p_zoo.sparse.dispatch import sparse_op
from i2p_zoo.sparse.pooling import in_single, reduce_sites
from i2p_zoo.sparse.tensor import SparseTensor, require_channels_first


@sparse_op(F.batch_norm)
def batch_norm(x: SparseTensor, *args: Any, **kwargs: Any) -> SparseTensor:
    """Normalises over all voxels of the batch, as it does over all pixels in 2D."""
    require_channels_first(x, "batch_norm")
    return x.derive(normalize_batch(x.features, *args, **kwargs))


@sparse_op(F.group_norm)
def group_norm(
    x: SparseTensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> SparseTensor:
    """Normalises each group of channels over the voxels of a sample, as it does over the pixels of an image."""
    require_channels_first(x, "group_norm")
    channels = x.features.shape[1]
    if x.features.ndim != 2 or channels % num_groups:
        raise InvalidInputError(f"`group_norm` of {channels} channels in {num_groups} groups: they must divide evenly.")
    groups = in_single(x).features.unflatten(1, (num_groups, -1))  # (N, groups, C / groups)
    mean = reduce_sites(x.derive(groups), "mean").mean(2, keepdim=True)
    centred = groups - x.batch_index.take(mean)
    variance = reduce_sites(x.derive(centred.square()), "mean").mean(2, keepdim=True)
    out = (centred * x.batch_index.take((variance + eps).rsqrt())).flatten(1)
    out = out if weight is None else out * weight
    return x.derive((out if bias is None else out + bias).to(x.dtype))


def _require_last(x: SparseTensor, shape: Any, name: str) -> None:
    if not x.channels_last or tuple(x.features.shape[1:]) != tuple(shape):
        raise UnsupportedError(
            f"`{name}` over the last dimensions {tuple(shape)} of {x!r}, which is seen as {x.shape}: only over channels, "
            "after a permutation that puts them last."
        )


@sparse_op(F.layer_norm)
def layer_norm(
    x: SparseTensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> SparseTensor:
    """Normalises each voxel over its channels, which must be last."""
    _require_last(x, normalized_shape, "layer_norm")
    return x.derive(F.layer_norm(x.features, normalized_shape, weight, bias, eps))


@sparse_op(F.rms_norm)
def rms_norm(x: SparseTensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> SparseTensor:
    """Divides each voxel by the root mean square of its channels, which must be last."""
    _require_last(x, normalized_shape, "rms_norm")
    return x.derive(F.rms_norm(x.features, normalized_shape, weight, eps))


@sparse_op(F.linear)
def linear(x: SparseTensor, weight: Tensor, bias: Tensor | None = None) -> SparseTensor:
    """Applies a linear layer to each voxel's channels, which must be last."""
    _require_last(x, weight.shape[1:], "linear")
    return x.derive(F.linear(x.features, weight, bias))


@sparse_op(F.prelu)
def prelu(x: SparseTensor, weight: Tensor) -> SparseTensor:
    """Applies a slope a channel (dimension 1 of the features)."""
    require_channels_first(x, "prelu")
    return x.derive(F.prelu(x.features, weight))


@sparse_op(F.dropout2d)
def dropout2d(x: SparseTensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> SparseTensor:
    """Drops whole channels of a sample."""
    require_channels_first(x, "dropout2d")
    gate = F.dropout(x.features.new_ones((x.batch_size, *x.features.shape[1:])), p, training)
    return x.derive(x.features * x.batch_index.take(gate))
