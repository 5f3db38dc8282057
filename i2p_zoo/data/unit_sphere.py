"""How clouds are centred and scaled before a network sees them: one way for all data sets of objects, and for their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT_SPHERE = "unit_sphere"
CENTRED = "centred"
_ROUNDING = 1e-6
_REACH = (0.25, 1.5)  # of augmented clouds in the unit sphere, which are scaled by 0.9 to 1.1 and shifted by up to 0.2


def to_unit_sphere(points: NDArray[Any]) -> NDArray[np.float32]:
    """Centres (N, 3) points on their mean and scales the farthest to a distance of 1; equal points come to lie at 0.

    Float32 points that are so already, up to their rounding, stay bit for bit.

    Example:
        >>> to_unit_sphere(np.array([[1, 0, 0], [5, 0, 0]])).tolist()
        [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    mean = points.mean(0, dtype=np.float64)
    centred = points - mean
    radius = np.linalg.norm(centred, axis=1).max()
    if points.dtype == np.float32 and np.abs(mean).max() < _ROUNDING and abs(radius - 1) < _ROUNDING:
        unchanged: NDArray[np.float32] = points.copy()
        return unchanged
    scaled: NDArray[np.float32] = (centred / (radius if radius > 0 else 1)).astype(np.float32)
    return scaled


def normalize_clouds(points: NDArray[Any]) -> NDArray[np.float32]:
    """Returns (M, N, 3) clouds, each as `to_unit_sphere` has it."""
    normalized = np.empty(points.shape, np.float32)
    for row, cloud in enumerate(points):
        normalized[row] = to_unit_sphere(cloud)
    return normalized


def describe_mismatch(normalization: str, low: Sequence[float], high: Sequence[float], slack: float) -> str:
    """Returns in words how a box of clouds, augmented ones too, departs from a normalisation; empty where it does not.

    Args:
        normalization: "unit_sphere", "centred" (as crops and blocks of scenes are, in x and y) or "" for none.
        low, high: corners (x, y, z).
        slack: how far the true corners may lie inside.

    Example:
        >>> describe_mismatch("unit_sphere", (-0.9, 0, 0), (1, 0, 0), 0), describe_mismatch("centred", (3, 0, 0), (9, 1, 1), 0)
        ('', 'in the middle of their box, and these run from (3, 0) to (9, 1)')
    """
    reach = max(max(-a, b) for a, b in zip(low, high, strict=True))
    if normalization == UNIT_SPHERE and (reach > _REACH[1] + slack or 0 < reach < _REACH[0]):
        return f"centred on their mean within the unit sphere, and these reach {reach:.3g}"
    if normalization == CENTRED and any(a > slack or b < -slack for a, b in zip(low[:2], high[:2], strict=True)):
        corners = (f"({a:.6g}, {b:.6g})" for a, b in (low[:2], high[:2]))
        return "in the middle of their box, and these run from " + " to ".join(corners)
    return ""
