"""A sparse convolution of what is no sparse tensor: heads joined with the batch, windows, pairs."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.geometry import insert_axis
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import channel
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, make_tokens
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, replace_dim


def convolve_tokens(layer: Any, x: TokenTensor) -> Any:
    """Convolves what is no sparse tensor by a layer.

    Args:
        layer: a `SparseConv3d`; one of kernel 1 is a linear layer of dimension 1.
        x: (B * heads, C, H, W) with heads joined to the batch, which all have the same weight; or (B * windows, C, h, w), each
            window an image with a border of its own, of sites or of channels.

    Raises:
        UnsupportedError: any other tokens.
    """
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1 and x.ndim == 4 and _is_unpadded(layer):
        return F.linear(x.permute(0, 2, 3, 1), layer.kernel().flatten(1), layer.bias).permute(0, 3, 1, 2)
    roles = ["".join(atom.role for atom in dim) for dim in x.dims]
    if len(roles) == 4 and roles[0] == "bc":
        return _convolve_heads(layer, x, x.dims[0][1].extent)
    if roles == ["byx", "c", "y", "x"]:
        return _convolve_windows(layer, x)
    if len(roles) == 4 and "c" not in roles[0] and roles[1:] == ["c", "c", "c"] and not x.is_pairs:
        out = layer.convolve_image(x.values)  # patches whose pixels were unfolded into channels
        return make_tokens(x.space, [out], (x.dims[0], *((channel(size),) for size in out.shape[1:])))
    raise _refusal(layer, x)


def _is_unpadded(layer: Any) -> bool:
    return layer.padding in (None, ((0, 0), (0, 0)))


def _refusal(layer: Any, x: TokenTensor) -> UnsupportedError:
    return UnsupportedError(
        f"A sparse {layer.kernel_size} convolution at stride {layer.stride} of {x!r}: expected an image (B, C, H, W), heads "
        "joined to its batch, its windows at stride 1, or patches of pixels."
    )


def _convolve_windows(layer: Any, x: TokenTensor) -> Any:
    """A convolution of windows, each an image with a border of its own."""
    rows, shared = x.rows, list(x.dims[0])
    height, width = x.dims[2][0], x.dims[3][0]

    def make() -> SparseTensor:
        index, _ = rows.groups(shared)
        places, _ = rows.compact([shared[0], height, width])
        places[:, 0] = index.rows.int()
        shape = insert_axis((height.extent, width.extent), height.extent, rows.axis)
        empty = x.values.new_empty((len(rows), 0))
        return SparseTensor(empty, places, batch_size=index.count, spatial_shape=shape).with_plan(axis=rows.axis)

    window = rows.remember(("windows", *x.dims[0], height, width), make)
    out = layer(window.derive(x.values))
    if out.coords is not window.coords:
        raise _refusal(layer, x)
    return make_tokens(rows, [out.features], replace_dim(x, 1, (channel(out.features.shape[1]),)))


def _convolve_heads(layer: Any, x: TokenTensor, heads: int) -> Any:
    batch, channels, height, width = x.shape
    joined = x.reshape(batch // heads, heads * channels, height, width)
    if not isinstance(joined, SparseTensor):
        raise _refusal(layer, x)
    weight = layer.kernel().repeat(heads, 1, 1, 1, 1)
    out = layer.convolve(joined, weight, None if layer.bias is None else layer.bias.repeat(heads), layer.groups * heads)
    return as_tokens(out).reshape(batch, layer.out_channels, *out.shape[-2:])
