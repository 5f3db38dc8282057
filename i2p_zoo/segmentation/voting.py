"""Classes of every point of a scene, in blocks that overlap and vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from i2p_zoo.data.scenes import Scene, overlapping_blocks
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.modules import eval_mode
from i2p_zoo.segmentation.crops import as_cloud, center


@torch.no_grad()
def segment(
    model: Any, scene: Scene, extent: Any = None, overlap: float = 0.25, progress: str | None = None
) -> NDArray[np.float32]:
    """Returns the probabilities of the classes of each point.

    Args:
        model: a `UNet`, run in eval mode; every module's mode is put back.
        scene: points, with the features that the network reads; labels are not looked at.
        extent: edge of a block, one number or (x, y, z) in the scene's unit; None for the whole scene at once. Memory grows
            with a block, not with the scene.
        overlap: fraction of a block that it shares with the next; a point's probabilities are averaged over its blocks.
        progress: label of a progress bar; None for no bar.

    Returns:
        (N, K) in the order of the points. Blocks are centred as in training, so a scene may lie anywhere.

    Raises:
        InvalidInputError: no points, or an extent or overlap out of range.
        DivergedError: logits that are not finite.
    """
    points = scene["points"]
    if points.ndim != 2 or not len(points):
        raise InvalidInputError(f"A scene needs (N, 3 + K) points, at least one; got {points.shape}.")
    votes, seen = np.zeros((len(points), model.num_classes), np.float32), np.zeros(len(points), bool)
    blocks = overlapping_blocks(points, np.inf if extent is None else extent, overlap)
    cloud = as_cloud(scene)
    with (
        eval_mode(model),
        tqdm(total=len(points), unit="point", unit_scale=True, desc=progress, disable=progress is None) as bar,
    ):
        for rows in blocks:
            logits = model([center({name: values[rows] for name, values in cloud.items()})])
            if not logits.isfinite().all():
                raise DivergedError(
                    "The network's outputs are NaN or infinite: its training diverged, or features are out of scale."
                )
            bar.update(int((~seen[rows]).sum()))
            seen[rows] = True
            votes[rows] += logits.softmax(1).float().cpu().numpy()
    shares: NDArray[np.float32] = votes / votes.sum(1, keepdims=True)
    return shares
