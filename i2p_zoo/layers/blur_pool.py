"""timm's anti-aliasing blur pool on sparse voxels."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.layers.registry import keep, replaces
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.geometry import AXES, Triple, Window, as_pair
from i2p_zoo.sparse.kernel_maps import kernel_map, window_sites
from i2p_zoo.sparse.pooling import in_single
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.sparse_convolution import convolve, sparse_convolution, with_window
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.windows import plan_window


@replaces(BlurPool2d)
class SparseBlurPool3d(nn.Module):
    """timm's BlurPool2d on sparse voxels: the same binomial filter, on the plane of the image.

    With a `spatial_shape` the border is padded as in 2D; without one the filter averages over the active voxels.

    Args:
        pool: the 2D layer; its filter is shared, not copied.
        axis: the axis that the 2D layer does not have.
        **_: a builder's other arguments.

    Raises:
        UnsupportedError: it pads by anything but mirror images or zeros.
    """

    filt: Tensor

    def __init__(self, pool: BlurPool2d, axis: str, **_: Any) -> None:
        super().__init__()
        if pool.pad_mode not in ("reflect", "constant"):
            raise UnsupportedError(f"pad_mode={pool.pad_mode!r}; only 'reflect' and 'constant' have a sparse counterpart")
        self.channels, self.stride, self.filt_size, self.pad_mode = pool.channels, pool.stride, pool.filt_size, pool.pad_mode
        self.axis = axis
        self.padding = ((pool.padding[2], pool.padding[3]), (pool.padding[0], pool.padding[1]))
        filt = pool.filt
        if filt.is_meta:  # the structure alone; the filter follows from its size and is in no checkpoint
            with torch.device("cpu"):
                filt = BlurPool2d(pool.channels, pool.filt_size).filt
        self.register_buffer("filt", filt, persistent=False)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Blurs and strides (N, C) features."""
        dtype, x = x.dtype, in_single(x.apply_padding())
        size = (self.filt_size, self.filt_size)
        window, level = plan_window(x, size, as_pair(self.stride), self.padding, depth=1, axis=AXES[self.axis])
        channels = x.features.shape[1]
        plane = self.filt.to(x.dtype).expand(channels, -1, -1, -1)
        weight = plane.permute(0, 2, 3, 1).unsqueeze(1 + AXES[self.axis])
        if x.spatial_shape is None:
            coords, shape, kmap = window_sites(x.cache, x.coords, None, window)
            total = convolve(x.features, weight, kmap, channels)
            norm = convolve(x.features.new_ones(len(x.coords), 1), weight[:1], kmap, 1, counted=False)
            mean = total / norm.clamp(min=torch.finfo(x.dtype).tiny)
            return with_window(x, mean.to(dtype), coords, shape, window, level)
        if self.pad_mode == "constant":
            return sparse_convolution(x, weight, None, window, channels, level).to(dtype)
        out_coords, shape, _ = window_sites(x.cache, x.coords, x.spatial_shape, window)
        mirrored, padded = reflected_sites(x.cache, x.coords, x.spatial_shape, window)
        kmap = kernel_map(x.cache, padded, out_coords, window)
        out = convolve(mirrored.take(x.features), weight, kmap, channels)
        return with_window(x, out.to(dtype), out_coords, shape, window, level)


keep(SparseBlurPool3d)


def reflected_sites(cache: SiteCache, coords: Tensor, shape: Triple, window: Window) -> tuple[RowIndex, Tensor]:
    """Adds mirror images of the sites near a border, as torch's 'reflect' padding does.

    Returns:
        The row of `coords` that each padded site copies, and (M, 4) int32, the padded sites.
    """
    key = ("reflected", cache.key(coords), shape, window.before, window.after)
    if key not in cache.derived:
        rows, padded = torch.arange(len(coords), device=coords.device), coords
        for axis in range(3):
            column = padded[:, axis + 1]
            low = (column > 0) & (column <= window.before[axis])
            last = shape[axis] - 1
            high = (column < last) & (column >= last - window.after[axis])
            images = [padded]
            for near, mirror in ((low, 0), (high, 2 * last)):
                image = padded[near].clone()
                image[:, axis + 1] = mirror - image[:, axis + 1]
                images.append(image)
            rows = torch.cat([rows, rows[low], rows[high]])
            padded = torch.cat(images)
        cache.derived[key] = (RowIndex(rows, len(coords)), padded.contiguous())
    result: tuple[RowIndex, Tensor] = cache.derived[key]
    return result
