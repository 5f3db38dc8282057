"""BatchNormAct2d: batch normalisation and the activation behind it, in one where that is a clamp."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from i2p_zoo.layers.registry import replaces, take_over
from i2p_zoo.sparse.batch_norm import is_synchronized, normalize_and_clamp
from i2p_zoo.sparse.engines import numba_engine
from i2p_zoo.sparse.geometry import Padding
from i2p_zoo.sparse.tensor import SparseTensor

_HOOKS_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")
_LIMITS = {nn.Identity: (float("-inf"), float("inf")), nn.ReLU: (0.0, float("inf")), nn.ReLU6: (0.0, 6.0)}


@replaces(BatchNormAct2d)
class SparseBatchNormAct2d(BatchNormAct2d):
    """timm's layer, which runs as one operation where it can: on the CPU, with ReLU, ReLU6 or no activation.

    Args:
        leaf: timm's layer, whose parts this one takes over.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: BatchNormAct2d, **_: Any) -> None:
        take_over(self, leaf)

    def forward(self, x: Any) -> Any:
        """Normalises (N, C) features over all voxels of the batch and applies the activation."""
        limits = _LIMITS.get(type(self.act))
        if limits is None or not self._fuses(x):
            return super().forward(x)
        momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        running = None if self.running_mean is None else (self.running_mean, self.running_var)
        if self.training and not self.track_running_stats:
            running = None
        arguments = (running, self.weight, self.bias, self.training, momentum or 0.0, self.eps, *limits)
        return x.derive(normalize_and_clamp(x.features, *arguments))

    def _fuses(self, x: Any) -> bool:
        """Whether one operation leaves the result, the errors and what hangs on the modules behind as they are."""
        if not isinstance(x, SparseTensor) or x.channels_last or x.padding != Padding() or x.features.ndim != 2:
            return False
        behind = [item for module in (self.drop, self.act) for item in vars(module).items()]
        if type(self.drop) is not nn.Identity or any(value for name, value in behind if "hooks" in name or name == "forward"):
            return False
        if any(getattr(torch.nn.modules.module, name) for name in _HOOKS_OF_ALL):
            return False
        vectors = [t for t in (self.weight, self.bias, self.running_mean, self.running_var) if t is not None]
        rows, channels = x.features.shape
        alike = all(t.shape == (channels,) and t.dtype == x.dtype and numba_engine.has_kernel(t) for t in vectors)
        return alike and numba_engine.has_kernel(x.features) and rows > 1 and not (self.training and is_synchronized())
