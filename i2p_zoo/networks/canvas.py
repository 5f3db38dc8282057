"""The canvas: the size of the image that a cloud passes for, in networks that look at an image's places.

A cloud has no border, and a convolutional network asks for none. A transformer's windows, shapes and tables of positions are
made for one size of image; on a canvas of that size a cloud has a height and a width all the same, and each voxel a place in
every table.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.layers.point_stem import DroppedPool, PointStemConv3d
from i2p_zoo.modules import eval_mode, image_channels
from i2p_zoo.sparse.coordinates import SiteCache, sorting_order
from i2p_zoo.sparse.geometry import Pair
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_tokens import became_tokens


def find_canvas(model: Any) -> Pair | None:
    """Finds the canvas of an inflated network with its image stem, by running it on one voxel.

    Returns:
        The (height, width) of its image, or None where its forward takes no voxels for tokens, or no image size is known.
    """
    size = _image_size(model)
    weight = next(model.parameters(), None)
    if size is None or weight is None or weight.is_meta:
        return None
    voxel = SparseTensor(weight.new_zeros(1, image_channels(model)), weight.new_zeros(1, 4, dtype=torch.int32), batch_size=1)
    voxel = put_on_canvas(voxel, size)
    with eval_mode(model), torch.no_grad(), contextlib.suppress(Exception):  # what fails behind is not asked here
        model(voxel)
    return size if became_tokens(voxel) else None


def _image_size(model: Any) -> Pair | None:
    """The size that timm states for a network, in its patch embedding or else its config."""
    module = getattr(model, "model", model)  # inside timm's wrapper for feature maps
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if size is None:
        size = ((getattr(module, "pretrained_cfg", None) or {}).get("input_size") or ())[-2:]
    return (int(size[0]), int(size[1])) if len(size) == 2 else None


def put_on_canvas(x: SparseTensor, canvas: Pair, scale: int = 1) -> SparseTensor:
    """Gives a cloud a canvas and moves each sample to its middle.

    Args:
        x: the input of a network.
        canvas: (height, width) of the network's image, in pixels.
        scale: how many of these a voxel stands for, along each side: strides of the 2D network that this one does not do.

    Returns:
        The same features; along the third axis each sample begins at 0.
    """
    coords = x.coords.clone()
    height, width = x.plan.plane
    for column in range(3):
        low, high = _bounds(x, column)
        shift = -low
        if column in (height, width):
            extent = canvas[0 if column == height else 1] // scale
            shift = shift + torch.div(extent - (high - low + 1), 2, rounding_mode="floor")
        coords[:, 1 + column] += shift[x.batch_rows].int()
    cache = SiteCache()
    cache.orders[cache.key(coords)] = sorting_order(coords)
    return x.derive(x.features, coords=coords, cache=cache, canvas=canvas)


def _bounds(x: SparseTensor, column: int) -> tuple[Tensor, Tensor]:
    """(batch_size,) int64: each sample's lowest and highest coordinate along an axis; 0 where it has no voxel."""
    at = x.coords[:, 1 + column].long()
    zeros = at.new_zeros(x.batch_size)
    low = zeros.scatter_reduce(0, x.batch_rows, at, "amin", include_self=False)
    return low, zeros.scatter_reduce(0, x.batch_rows, at, "amax", include_self=False)


def pixels_of_a_voxel(model: nn.Module, skip_downsamples: int) -> int:
    """Returns how many pixels of the 2D network's image a voxel stands for: by strides that a stem dropped, or are skipped."""
    stem = 1
    for module in model.modules():
        if isinstance(module, PointStemConv3d | DroppedPool):
            stem *= module.stride_2d
    return max(stem, 2**skip_downsamples)
