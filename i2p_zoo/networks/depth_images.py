"""Depth images of clouds from the six sides of a cube."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.sparse.tensor import SparseTensor

SIDES = 6
_REACH = 1.35  # what an image shows of the unit sphere's radius: an augmented cloud is scaled by 1.1 and shifted by 0.2
_FAR = 0.25  # brightness of the farthest point, against a background of 0


def draw_sides(x: SparseTensor, size: int, splat: int, mean: Tensor, std: Tensor) -> Tensor:
    """Draws voxels whose first three features are x, y, z as the images that a 2D network reads.

    Args:
        x: (N, C) features of B clouds.
        size, splat: as `render_depth`, S.
        mean, std: (3, 1, 1), by which the weights' images are scaled.

    Returns:
        (6 * B, 3, S, S), side by side of each cloud, of the dtype of `mean`.
    """
    images = render_depth(x.features[:, :3], x.coords[:, 0], x.batch_size, size, splat)
    return (images.flatten(0, 1)[:, None].to(mean.dtype) - mean) / std


def render_depth(points: Tensor, batch: Tensor, batch_size: int, size: int, splat: int = 1) -> Tensor:
    """Draws depth images of clouds within the unit sphere from the six sides of a cube, by parallel projection.

    Args:
        points: (N, 3) floating point x, y, z.
        batch: (N,) the cloud of each.
        batch_size: number of clouds, B.
        size: edge of an image in pixels, S.
        splat: edge in pixels of the square that a point covers.

    Returns:
        (B, 6, S, S) brightness: 1 at the nearest point that an image can show, 0.25 at the farthest, 0 where there is none.
        Sides are -x, +x, -y, +y, -z, +z; a nearer point hides a farther one. Points beyond the image stand at its edge.
    """
    place = ((points / _REACH + 1) / 2).clamp(0, 1)
    pixel = (place * size).long().clamp(max=size - 1)
    images = points.new_zeros(batch_size * SIDES * size * size)
    for axis in range(3):
        right, up = (other for other in range(3) if other != axis)
        for towards in range(2):
            depth = place[:, axis] if towards else 1 - place[:, axis]
            column = pixel[:, right] if towards else size - 1 - pixel[:, right]
            row = size - 1 - pixel[:, up]
            image = batch.long() * SIDES + 2 * axis + towards
            brightness = _FAR + (1 - _FAR) * depth
            images.scatter_reduce_(0, (image * size + row) * size + column, brightness, "amax")
    drawn = images.view(batch_size, SIDES, size, size)
    return F.max_pool2d(drawn, splat, stride=1, padding=splat // 2)
