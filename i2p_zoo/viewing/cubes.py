"""Voxels as cubes: the faces of them that are seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_FILL = 0.94  # of a voxel's edge, so that neighbours are told apart
# The corners of a face, 0 or 1 along x, y, z, in the order of their circle; one face for each direction.
_DIRECTIONS = np.array([(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1)])
_SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])


class Faces(NamedTuple):
    """Squares in space, each of two triangles.

    Attributes:
        corners: (4 F, 3) float32, those of a face one after the other.
        triangles: (2 F, 3) integers, rows of `corners`; those of a face one after the other.
        voxels: (F,) which voxel a face is of.
    """

    corners: NDArray[np.float32]
    triangles: NDArray[np.int64]
    voxels: NDArray[np.int64]


def find_faces(sites: NDArray[np.int64], edge: NDArray[np.float64], origin: NDArray[np.float64]) -> Faces:
    """Returns the faces of voxels that no other voxel covers.

    Args:
        sites: (M, 3) x, y, z of voxels, none twice.
        edge: (3,) of a voxel.
        origin: (3,) corner of the voxel (0, 0, 0).

    Example:
        >>> faces = find_faces(np.array([[0, 0, 0], [1, 0, 0]]), np.ones(3), np.zeros(3))
        >>> len(faces.voxels), faces.corners.shape, faces.triangles.shape
        (10, (40, 3), (20, 3))
    """
    padded = sites - sites.min(0) + 1
    shape = padded.max(0) + 2
    numbers = np.ravel_multi_index(tuple(padded.T), tuple(shape))
    parts, voxels = [], []
    for direction in _DIRECTIONS:
        neighbours = np.ravel_multi_index(tuple((padded + direction).T), tuple(shape))
        open_rows = np.flatnonzero(~np.isin(neighbours, numbers))
        parts.append(sites[open_rows, None, :] + _face_corners(direction))
        voxels.append(open_rows)
    corners = (np.concatenate(parts).reshape(-1, 3) * edge + origin).astype(np.float32)
    first = 4 * np.arange(len(corners) // 4)[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return Faces(corners, triangles, np.concatenate(voxels))


def _face_corners(direction: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns (4, 3) corners of a cube's face, in voxels from its lowest corner; the cube is a little smaller than a voxel."""
    axis = int(np.flatnonzero(direction)[0])
    corners = np.empty((4, 3))
    corners[:, axis] = (direction[axis] + 1) / 2
    corners[:, [other for other in range(3) if other != axis]] = _SQUARE
    filled: NDArray[np.float64] = 0.5 + (corners - 0.5) * _FILL
    return filled
