"""The strides of feature maps in 3D, where a point stem and skipped halvings make them finer than timm's."""

from __future__ import annotations

import copy
from typing import Any

from i2p_zoo.layers.point_stem import DroppedPool, PointStemConv3d


def true_feature_info(model: Any, info: Any) -> Any:
    """Returns timm's description of a 2D network's feature maps with the strides of the 3D network's.

    Args:
        model: the inflated network.
        info: timm's `FeatureInfo` of a feature extractor, or the list of dictionaries of any other network; left as it is.
    """
    stem = [layer for layer in model.modules() if isinstance(layer, PointStemConv3d | DroppedPool)]
    dropped = max((layer.halvings for layer in stem if isinstance(layer, PointStemConv3d)), default=0)
    dropped += sum(layer.halvings for layer in stem if isinstance(layer, DroppedPool))
    skipped = max(dropped, model.settings.skip_downsamples)
    changed = copy.deepcopy(info)
    for entry in getattr(changed, "info", changed):
        halvings = entry["reduction"].bit_length() - 1
        entry["reduction"] >>= min(halvings, skipped)
    return changed
