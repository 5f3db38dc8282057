"""Augmentation of clouds, in arrays of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def augment(cloud: Mapping[str, NDArray[Any]], random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Scales, shifts and jitters a cloud as Image2Point does for ModelNet40: no rotation.

    Scale 0.9 to 1.1 an axis (with probability 0.9), shift +-0.2 (0.9), jitter +-0.0125 a point (0.7).

    Args:
        cloud: `points` (N, 3) float32, and `normals` and `rgb` where there are any.
        random: the generator of the draws.

    Returns:
        A new cloud. Normals follow the scale; colours stay.

    Example:
        >>> augment({"points": np.ones((2, 3), np.float32)}, np.random.default_rng(0))["points"].dtype
        dtype('float32')
    """
    out = dict(cloud)
    points = cloud["points"].copy()
    if random.random() < 0.9:
        scale = random.uniform(0.9, 1.1, 3).astype(np.float32)
        points = points * scale
        if "normals" in cloud:
            normals = cloud["normals"] / scale  # of a plane: by the inverse transpose
            out["normals"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-12))
    if random.random() < 0.9:
        points = points + random.uniform(-0.2, 0.2, 3).astype(np.float32)
    if random.random() < 0.7:
        points = points + random.uniform(-0.0125, 0.0125, points.shape).astype(np.float32)
    out["points"] = points
    return out
