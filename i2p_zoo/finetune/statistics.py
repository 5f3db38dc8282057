"""Statistics of normalisation taken from clouds, which needs no labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from i2p_zoo.data import CloudSet, evaluation_batches
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.modules import eval_mode, view_modules
from i2p_zoo.sparse.device_memory import SMALLER_BATCH, explain_memory


@torch.no_grad()
def adapt_statistics_(model: Any, clouds: CloudSet, batch_size: int = 32) -> int:
    """Takes the statistics of a network's BatchNorm layers from clouds in place of those of the images it was trained on.

    Labels are not looked at, so that test-time clouds will do (adaptive batch normalisation, Li et al. 2016, "Revisiting batch
    normalization for practical domain adaptation"). Each layer gets the mean of its batches' statistics, measured with every
    layer before it normalising by its own batch; nothing else changes, dropout is off. Batches are of nearly equal size and
    drawn from all clouds, the same each time: of clouds that stand class by class, batches in order would hold few classes each
    and miss what differs between classes. Views of a pyramid classifier are images and keep their network's statistics.

    Args:
        model: a `PointCloudModel`, in place; every module's mode is put back. After an error it is as it was.
        clouds: what the statistics are of.
        batch_size: clouds at once, at most.

    Returns:
        How many layers there are.

    Raises:
        InvalidInputError: no clouds, a batch size below 1, features that the clouds do not have, or no layer that keeps
            statistics (LayerNorm and GroupNorm have none).

    Example:
        >>> import numpy as np, i2p_zoo
        >>> from i2p_zoo.data import CloudSet
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.2)
        >>> clouds = CloudSet([np.random.rand(100, 3) for _ in range(4)], np.array([0, 1, 0, 1]), ("a", "b"))
        >>> adapt_statistics_(model, clouds)
        15
    """
    norms = find_norms_with_statistics(model)
    if not norms or not len(clouds) or batch_size < 1:
        raise InvalidInputError(
            f"Statistics need BatchNorm layers that keep them ({len(norms)}), clouds ({len(clouds)}) and a batch_size of 1 or "
            f"more ({batch_size})."
        )
    clouds.require_features(model.settings.features)
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    with eval_mode(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None takes the mean over all batches
            mixed = clouds.subset(np.random.default_rng(0).permutation(len(clouds)))
            equal_size = math.ceil(len(clouds) / math.ceil(len(clouds) / batch_size))
            seeing = model.encoder if view_modules(model) else model  # so that nothing is drawn in vain
            _run(seeing, evaluation_batches(mixed, equal_size, model.settings))
        except BaseException:
            for norm, buffers in zip(norms, before, strict=True):
                norm.load_state_dict(buffers, strict=False)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return len(norms)


def find_norms_with_statistics(model: nn.Module) -> list[Any]:
    """Returns the BatchNorm layers that keep running statistics of voxels; those of a pyramid classifier's views see images."""
    batch_norm = nn.modules.batchnorm._BatchNorm
    drawn = view_modules(model)
    return [m for m in model.modules() if isinstance(m, batch_norm) and m.running_mean is not None and m not in drawn]


def _run(model: Any, batches: Iterable[Any]) -> None:
    for x in batches:
        with explain_memory(lambda: len(x.coords), SMALLER_BATCH):  # noqa: B023
            model(x)
