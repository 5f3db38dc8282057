"""Polygons in space, divided into triangles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError

Triangles = NDArray[np.int64]

_ROUNDING = 1e-6  # of a polygon's area: a corner on a straight edge may lie as far inside as numbers in a text are rounded


def triangulate(vertices: NDArray[np.float64], corners: NDArray[np.int64], sizes: NDArray[np.int64]) -> Triangles:
    """Divides polygons into triangles about their first corner, or by cutting off ears where these would leave the polygon.

    Args:
        vertices: (N, 3).
        corners: the vertices that the polygons name, one polygon behind the other.
        sizes: (F,) how many corners each has; one of fewer than three has no triangle.

    Returns:
        (T, 3) vertices of the triangles, in the order of their polygons.

    Raises:
        InvalidInputError: a corner that is no vertex.

    Example:
        >>> square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> triangulate(square, np.array([0, 1, 2, 3]), np.array([4])).tolist()
        [[0, 1, 2], [0, 2, 3]]
    """
    if len(corners) and not 0 <= corners.min() <= corners.max() < len(vertices):
        raise InvalidInputError(f"faces name vertices {corners.min()} to {corners.max()} of {len(vertices)}.")
    counts = np.maximum(sizes - 2, 0)
    faces = np.repeat(np.arange(len(sizes)), counts)
    starts, firsts = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts
    seconds = starts[faces] + 1 + np.arange(len(faces)) - firsts[faces]
    triangles: Triangles = corners[np.stack([starts[faces], seconds, seconds + 1], 1)]
    if (counts <= 1).all():
        return triangles
    normals = _normals(vertices[triangles])
    wholes = np.stack([np.bincount(faces, axis, len(sizes)) for axis in normals.T], 1)
    along = np.einsum("td,td->t", normals, wholes[faces])
    outside = along < -_ROUNDING * np.einsum("td,td->t", wholes, wholes)[faces]
    for face in np.unique(faces[outside]):
        polygon = corners[starts[face] : starts[face] + sizes[face]]
        triangles[firsts[face] : firsts[face] + counts[face]] = polygon[_cut_ears(vertices[polygon], wholes[face])]
    return triangles


def _normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (T, 3) normals of triangles (T, 3, 3), twice as long as their areas."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _cut_ears(polygon: NDArray[np.float64], normal: NDArray[np.float64]) -> Triangles:
    axes = np.roll(np.arange(3), -1 - int(np.abs(normal).argmax()))[:2]  # seen along the axis that the normal is nearest to
    flat = polygon[:, axes] * (1, np.sign(normal[3 - axes.sum()]))
    left = np.arange(len(flat))
    found = []
    while len(left) > 3:
        before, after = np.roll(left, 1), np.roll(left, -1)
        ears = np.flatnonzero(_turn(flat[before], flat[left], flat[after]) > 0)
        # a polygon that crosses itself may have no ear, and any division of it is as good
        ear = next((ear for ear in ears if _is_empty(flat, before[ear], left[ear], after[ear], left)), 0)
        found.append((before[ear], left[ear], after[ear]))
        left = np.delete(left, ear)
    return np.array([*found, left])


def _is_empty(flat: NDArray[np.float64], first: int, second: int, third: int, others: NDArray[np.int64]) -> bool:
    corners = flat[[first, second, third]]
    points = flat[others]
    inside = np.all([_turn(corners[k], corners[(k + 1) % 3], points) >= 0 for k in range(3)], 0)
    is_corner = (points[:, None] == corners).all(2).any(1)
    return not (inside & ~is_corner).any()


def _turn(first: NDArray[np.float64], second: NDArray[np.float64], third: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns twice the areas of triangles in the plane, positive where they turn to the left."""
    side, other = second - first, third - first
    turns: NDArray[np.float64] = side[..., 0] * other[..., 1] - side[..., 1] * other[..., 0]
    return turns
