"""What an exported graph cannot refuse is refused before it runs; without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError

_MOST_VOXELS = 2**30  # from the origin
_LARGEST_BOX = 2**61  # voxels, margins left out
_WIDTHS = {"rgb": 3, "normals": 3}  # others have one column
_ROUNDED = 1e-2  # of a unit vector's length
_FAR = 2**16  # voxels from the origin, from where on coordinates are no features


def check_clouds(clouds: Sequence[Any], voxel_size: float, *, reads_xyz: bool) -> list[NDArray[np.float32]]:
    """Returns clouds as the float32 (N, 3) that an exported graph takes.

    Args:
        clouds: arrays (N, 3 + K) of any real type, columns x, y, z first.
        voxel_size: edge of a voxel.
        reads_xyz: whether coordinates are among the network's features.

    Raises:
        InvalidInputError: no cloud, an empty one, other columns, NaN or infinite values, or points too far out.
    """
    if not len(clouds):
        raise InvalidInputError("There is no cloud: expected one or more.")
    checked = [_check_cloud(np.asarray(cloud), number, voxel_size, reads_xyz) for number, cloud in enumerate(clouds)]
    low = np.min([cloud.min(0) for cloud in checked], 0) / voxel_size
    high = np.max([cloud.max(0) for cloud in checked], 0) / voxel_size
    extents = np.floor(high.astype(np.float64)) - np.floor(low.astype(np.float64)) + 1
    if len(checked) * math.prod(extents.tolist()) > _LARGEST_BOX:
        raise InvalidInputError(
            f"The box around all clouds, {extents.astype(np.int64).tolist()} (x, y, z) voxels, has more than 2**61. Remove "
            "outlying points, or run the clouds one by one."
        )
    return checked


def _check_cloud(cloud: NDArray[Any], number: int, voxel_size: float, reads_xyz: bool) -> NDArray[np.float32]:
    is_real = cloud.dtype.kind in "iuf"
    if cloud.ndim != 2 or cloud.shape[1] < 3 or not is_real:
        raise InvalidInputError(f"Cloud {number} must be numbers (N, 3 + K), columns x, y, z; got {cloud.dtype} {cloud.shape}.")
    if not len(cloud):
        raise InvalidInputError(f"Cloud {number} is empty: every cloud needs at least one point.")
    points = cloud[:, :3].astype(np.float64)
    if bad := int((~np.isfinite(points)).sum()):
        raise InvalidInputError(f"Cloud {number} has {bad} NaN or infinite coordinates; remove those points.")
    low, high = points.min(0), points.max(0)
    reach, extent = float(np.maximum(-low, high).max()), float((high - low).max())
    if reach / voxel_size > _MOST_VOXELS:
        raise InvalidInputError(
            f"Cloud {number} reaches voxel {reach / voxel_size:.3g}; coordinates must lie within +-2**30 voxels of "
            f"{voxel_size}. Move the cloud nearer to the origin."
        )
    if float(np.spacing(np.float32(reach))) > voxel_size / 2:
        raise InvalidInputError(
            f"Cloud {number} reaches {reach:.7g}, where float32, which exported networks take, merges points of different "
            f"voxels of {voxel_size}. Subtract the mean of the coordinates first, as float64."
        )
    if reads_xyz and reach > _FAR * voxel_size and float(np.abs(low + high).max()) / 2 > extent:
        raise InvalidInputError(
            f"Cloud {number} lies {reach:.7g} from the origin and is {extent:.3g} across: such coordinates, as of a map, are "
            "no features. Subtract the mean of each cloud, as float64: `points - points.mean(0)`."
        )
    return points.astype(np.float32)


def check_features(features: Any, shape: tuple[int, int], columns: str, number: int) -> NDArray[np.float32]:
    """Returns a cloud's features as the float32 that an exported graph takes.

    Args:
        features: of the cloud's points.
        shape: that they must have.
        columns: their names, joined by commas.
        number: of the cloud, for messages.

    Raises:
        InvalidInputError: another shape; values that are no numbers, NaN or infinite; colours beyond 0 to 1; or normals that
            are not of length 1, or 0.
    """
    values = np.asarray(features)
    if values.shape != shape or values.dtype.kind not in "iuf":
        raise InvalidInputError(
            f"Features of cloud {number} must be numbers {shape}, columns {columns}; got {values.dtype} {values.shape}."
        )
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidInputError(f"Features of cloud {number} have NaN or infinite values; remove those points.")
    names = columns.split(",")
    extra = shape[1] - sum(_WIDTHS.get(name, 1) for name in names if name != "extra")
    first = 0
    for name in names:
        part = values[:, first : (first := first + (extra if name == "extra" else _WIDTHS.get(name, 1)))]
        if name == "rgb" and (part.min() < 0 or part.max() > 1):
            raise InvalidInputError(
                f"Colours of cloud {number} run from {part.min():g} to {part.max():g}; expected fractions of 0 to 1. "
                "Divide them by the range of their type, 255 or 65535."
            )
        lengths = np.linalg.norm(part, axis=1)
        if name == "normals" and (np.abs(lengths[lengths > 0] - 1) > _ROUNDED).any():
            raise InvalidInputError(
                f"Normals of cloud {number} are up to {lengths.max():g} long; expected unit vectors. Divide them by their "
                "length."
            )
    return values
