"""The strides of feature maps in 3D, where a stem for points and skipped halvings make them finer than timm's."""

from __future__ import annotations

import copy
from typing import Any

from i2p_zoo.layers.point_stem import PointStemConv3d, dropped_stride


def true_feature_info(model: Any, info: Any) -> Any:
    """Returns timm's description of a 2D network's feature maps with the strides of the 3D network's.

    Args:
        model: the inflated network.
        info: timm's `FeatureInfo` of a feature extractor, or the list of dictionaries of any other network; left as it is.
    """
    skip = 2**model.settings.skip_downsamples
    steps = [
        max(layer.stride) for layer in model.modules() if isinstance(layer, PointStemConv3d) and layer.stride_2d * 2 > skip
    ]
    skipped, least = max(dropped_stride(model), skip), max(steps, default=1)
    changed = copy.deepcopy(info)
    for entry in getattr(changed, "info", changed):
        entry["reduction"] = max(entry["reduction"] // skipped, least)
    return changed
