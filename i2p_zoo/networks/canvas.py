"""The canvas: the size of the image that a cloud passes for, in networks that look at an image's places.

A cloud has no border, and a convolutional network asks for none. A transformer's windows, shapes and tables of positions are
made for one size of image; on a canvas of that size a cloud has a height and a width all the same, and each voxel a place in
every table.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from i2p_zoo.layers.point_stem import dropped_stride
from i2p_zoo.modules import image_channels, image_size, probe_mode
from i2p_zoo.sparse.coordinates import SiteCache, sorting_order
from i2p_zoo.sparse.geometry import Pair
from i2p_zoo.sparse.sample_boxes import sample_boxes
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.site_tokens import became_tokens


class _TokensReachedError(Exception):
    """Ends a forward as soon as it has taken sites for tokens."""


def find_canvas(model: Any) -> Pair | None:
    """Finds the canvas of an inflated network with its image stem, by running it on one voxel up to the first token.

    The network stays as it is: its mode, its statistics and torch's random numbers; hooks of its modules are not called.

    Returns:
        The (height, width) of its image, or None where its forward takes no voxels for tokens, no image size is known, or
        there are no weights to run.
    """
    size = image_size(model)
    weight = next(model.parameters(), None)
    if size is None or weight is None or any(parameter.is_meta for parameter in model.parameters()):
        return None
    coords = torch.zeros(1, 4, dtype=torch.int32, device=weight.device)
    voxel = put_on_canvas(SparseTensor(weight.new_zeros(1, image_channels(model)), coords, batch_size=1), size)

    def check(*_: Any) -> None:
        if became_tokens(voxel):
            raise _TokensReachedError

    with probe_mode(model), torch.no_grad(), contextlib.suppress(Exception):  # what fails behind the first token is not asked
        for module in model.modules():
            module.register_forward_pre_hook(check)
        model(voxel)
    return size if became_tokens(voxel) else None


def put_on_canvas(x: SparseTensor, canvas: Pair, scale: int = 1) -> SparseTensor:
    """Gives a cloud a canvas and moves the box of each sample to its middle; along the third axis the box begins at 0.

    The box leaves out a sample's outermost voxels (`sample_boxes`), so that a stray point does not move the others. A cloud
    may be larger than the canvas.

    Args:
        x: the input of a network.
        canvas: (height, width) of the network's image, in pixels.
        scale: how many of these a voxel stands for, along each side: strides of the 2D network that this one does not do.

    Returns:
        The same features on the moved sites.
    """
    coords = x.coords.clone()
    for column in range(3):
        low, high = sample_boxes(x.batch_rows, x.coords[:, 1 + column], x.batch_size)
        shift = -low
        if column in x.plan.plane:
            extent = canvas[x.plan.plane.index(column)] // scale
            shift = shift + torch.div(extent - (high - low + 1), 2, rounding_mode="floor")
        coords[:, 1 + column] = (coords[:, 1 + column] + shift[x.batch_rows]).int()
    cache = SiteCache()
    cache.orders[cache.key(coords)] = sorting_order(coords)
    return x.derive(x.features, coords=coords, cache=cache, canvas=canvas)


def pixels_of_a_voxel(model: nn.Module, skip_downsamples: int) -> int:
    """Returns how many pixels of the 2D network's image a voxel stands for: by strides that a stem dropped, or are skipped."""
    return max(dropped_stride(model), 1 << skip_downsamples)
