"""Polygons in space: divided into triangles, and points drawn on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.errors import InvalidInputError

Triangles = NDArray[np.integer]

_TOUCHING = 1e-9  # of a polygon's extent: a corner so near an ear's edge may lie on it
_BLOCK = 2**16  # triangles or polygons whose corners are looked up at a time
_ROUNDING = 1e-6  # of a polygon's area: a corner on a straight edge may lie as far inside as numbers in a text are rounded


def triangulate(vertices: NDArray[np.float64], corners: NDArray[np.int64], sizes: NDArray[np.int64]) -> Triangles:
    """Divides polygons into triangles about their first corner, or by cutting off ears where these would leave the polygon.

    Args:
        vertices: (N, 3).
        corners: the vertices that the polygons name, one polygon after the other.
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
    check_corners(len(vertices), corners)
    if (sizes == 3).all():
        return corners.reshape(-1, 3)
    ends = np.cumsum(sizes)
    parts: list[Triangles] = [np.zeros((0, 3), corners.dtype)]
    for start in range(0, len(sizes), _BLOCK):
        block = sizes[start : start + _BLOCK]
        last = ends[start + len(block) - 1]
        parts.append(_divide(vertices, corners[last - block.sum() : last], block))
    return np.concatenate(parts)


def _divide(vertices: NDArray[Any], corners: NDArray[np.integer], sizes: NDArray[np.int64]) -> Triangles:
    counts = np.maximum(sizes - 2, 0)
    faces = np.repeat(np.arange(len(sizes)), counts)
    starts, firsts = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts
    seconds = starts[faces] + 1 + np.arange(len(faces)) - firsts[faces]
    triangles: Triangles = corners[np.stack([starts[faces], seconds, seconds + 1], 1)]
    if (counts <= 1).all():
        return triangles
    is_part = counts[faces] > 1  # of a polygon of more corners than three
    faces = faces[is_part]
    normals = _normals(vertices[triangles[is_part]].astype(np.float64))
    wholes = np.stack([np.bincount(faces, axis, len(sizes)) for axis in normals.T], 1)
    along = np.einsum("td,td->t", normals, wholes[faces])
    outside = along < -_ROUNDING * np.einsum("td,td->t", wholes, wholes)[faces]
    for face in np.unique(faces[outside]):
        polygon = corners[starts[face] : starts[face] + sizes[face]]
        triangles[firsts[face] : firsts[face] + counts[face]] = polygon[
            _cut_ears(vertices[polygon].astype(np.float64), wholes[face])
        ]
    return triangles


def divide_strips(corners: NDArray[np.int64], strip: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divides strips into triangles of the same side: of every second one the first two corners change places.

    Args:
        corners: (N,) the vertices of the strips, one strip after the other.
        strip: (N,) the strip of each, in rising numbers.

    Returns:
        (3 T,) the vertices of the triangles.

    Example:
        >>> divide_strips(np.array([5, 6, 7, 8]), np.zeros(4, int)).reshape(-1, 3).tolist()
        [[5, 6, 7], [7, 6, 8]]
    """
    firsts = np.flatnonzero(strip[2:] == strip[:-2])
    is_odd = (firsts - np.searchsorted(strip, strip[firsts])) % 2
    return np.stack([corners[firsts + is_odd], corners[firsts + 1 - is_odd], corners[firsts + 2]], 1).reshape(-1)


def check_corners(count: int, corners: NDArray[np.integer]) -> None:
    """Raises InvalidInputError unless all corners are numbers of the `count` vertices."""
    if len(corners) and not 0 <= corners.min() <= corners.max() < count:
        raise InvalidInputError(f"faces name vertices {corners.min()} to {corners.max()} of {count}.")


def sample_surface(mesh: Mapping[str, NDArray[Any]], points: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draws points on polygons, uniformly by area.

    Args:
        mesh: `points` (N, 3), the vertices, and `corners` and `sizes` as `triangulate` takes them; also uint8
            `colors` of the vertices (N, 3) or, which count where there are no others, `face_colors` of the polygons (F, 3).
        points: how many to draw.
        seed: of the draw.

    Returns:
        `points` and `normals`, the unit normals of their triangles, both (points, 3) float64, and, where the mesh has colours,
        `rgb` (points, 3) uint8, between those of the triangle's corners.

    Raises:
        InvalidInputError: a corner that is no vertex or not finite, or no area.
    """
    vertices, sizes = mesh["points"], mesh["sizes"]
    triangles = triangulate(vertices, mesh["corners"], sizes)
    areas = _double_areas(vertices, triangles)
    total = areas.sum()
    if not 0 < total < np.inf:
        raise InvalidInputError(f"the mesh's {len(triangles)} faces have an area of {total / 2}.")
    random = np.random.default_rng(seed)
    chosen = random.choice(len(triangles), points, p=areas / total)
    weights = random.random((points, 2))
    weights[weights.sum(1) > 1] = 1 - weights[weights.sum(1) > 1]  # the other half of the parallelogram, folded back
    corners = vertices[triangles[chosen]].astype(np.float64)
    drawn = corners[:, 0] + (weights[:, :, None] * (corners[:, 1:] - corners[:, :1])).sum(1)
    sampled = {"points": drawn, "normals": _normals(corners) / areas[chosen, None]}
    if "colors" in mesh:
        shares = np.concatenate([1 - weights.sum(1, keepdims=True), weights], 1)
        blended = (shares[:, :, None] * mesh["colors"][triangles[chosen]]).sum(1)
        sampled["rgb"] = np.round(blended).astype(np.uint8)
    elif "face_colors" in mesh:
        faces = np.searchsorted(np.cumsum(np.maximum(sizes - 2, 0)), chosen, side="right")
        sampled["rgb"] = mesh["face_colors"][faces]
    return sampled


def _double_areas(vertices: NDArray[Any], triangles: Triangles) -> NDArray[np.float64]:
    """Returns twice the areas; raises InvalidInputError where a triangle has a corner that is not finite."""
    areas = np.empty(len(triangles))
    for start in range(0, len(triangles), _BLOCK):
        corners = vertices[triangles[start : start + _BLOCK]].astype(np.float64)
        if not np.isfinite(corners).all():
            raise InvalidInputError("vertices have coordinates that are NaN or infinite.")
        with np.errstate(over="ignore", invalid="ignore"):
            areas[start : start + _BLOCK] = np.linalg.norm(_normals(corners), axis=1)
    return areas


def _normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (T, 3) normals of triangles (T, 3, 3), twice as long as their areas."""
    with np.errstate(over="ignore", invalid="ignore"):
        (ax, ay, az), (bx, by, bz) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
        return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)


def _cut_ears(polygon: NDArray[np.float64], normal: NDArray[np.float64]) -> Triangles:
    axes = np.roll(np.arange(3), -1 - int(np.abs(normal).argmax()))[:2]  # seen along the axis that the normal is nearest to
    flat = polygon[:, axes] * (1, np.sign(normal[3 - axes.sum()]))
    slack = _TOUCHING * np.ptp(flat, axis=0).prod()
    left = np.arange(len(flat))
    triangles = []
    while len(left) > 3:
        before, after = np.roll(left, 1), np.roll(left, -1)
        turns = _turn(flat[before], flat[left], flat[after])
        ears, others = np.flatnonzero(turns > 0), flat[left[turns <= slack]]  # only such corners can lie in an ear
        corners = flat[np.stack([before, left, after], 1)]
        tries = ((ear, allowed) for allowed in (slack, 0.0) for ear in ears)
        ear = next((ear for ear, allowed in tries if _is_empty(corners[ear], others, allowed)), -1)
        if ear < 0:  # it crosses itself, and any division is as good
            triangles += [(left[0], second, third) for second, third in itertools.pairwise(left[1:])]
            return np.array(triangles)
        triangles.append((before[ear], left[ear], after[ear]))
        left = np.delete(left, ear)
    return np.array([*triangles, left])


def _is_empty(corners: NDArray[np.float64], points: NDArray[np.float64], slack: float) -> bool:
    """Whether no point lies in a triangle or, within a slack of twice an area, on it, its own corners excepted."""
    inside = np.all([_turn(corners[k], corners[(k + 1) % 3], points) >= -slack for k in range(3)], 0)
    return bool((points[inside][:, None] == corners).all(2).any(1).all())


def _turn(first: NDArray[np.float64], second: NDArray[np.float64], third: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns twice the areas of triangles in the plane, positive where they turn to the left."""
    side, other = second - first, third - first
    return side[..., 0] * other[..., 1] - side[..., 1] * other[..., 0]
