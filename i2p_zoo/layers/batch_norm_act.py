"""BatchNormAct2d: batch normalisation and the activation behind it, in one where that is a clamp."""

from __future__ import annotations

from typing import Any

from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from i2p_zoo.convolution import has_kernel
from i2p_zoo.layers.registry import replaces
from i2p_zoo.normalization import normalize_and_clamp
from i2p_zoo.sparse_tensor import Padding, SparseTensor
from i2p_zoo.synchronized_norm import is_synchronized

_LIMITS = {nn.Identity: (float("-inf"), float("inf")), nn.ReLU: (0.0, float("inf")), nn.ReLU6: (0.0, 6.0)}


class SparseBatchNormAct2d(BatchNormAct2d):
    """timm's layer, which runs as one operation where it can: on the CPU, with ReLU, ReLU6 or no activation.

    Args:
        leaf: timm's layer; its parameters, buffers, activation and dropout are shared, not copied.
    """

    def __init__(self, leaf: BatchNormAct2d) -> None:
        affine, track = leaf.affine, leaf.track_running_stats
        super().__init__(leaf.num_features, leaf.eps, leaf.momentum, affine, track, apply_act=False, device="meta")
        self.drop, self.act = leaf.drop, leaf.act
        self._parameters.update(leaf._parameters)
        self._buffers.update(leaf._buffers)

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
        """Whether the input, the parameters and what hangs on the modules behind leave the result and its way as they are."""
        if not isinstance(x, SparseTensor) or x.channels_last or x.padding != Padding() or type(self.drop) is not nn.Identity:
            return False
        hooked = any(value for module in (self.drop, self.act) for key, value in vars(module).items() if "hooks" in key)
        tensors = [x.features, *(t for t in (self.weight, self.bias, self.running_mean, self.running_var) if t is not None)]
        alike = all(has_kernel(t) and t.dtype == x.features.dtype for t in tensors)
        few = len(x.features) < 2 or x.features.ndim != 2
        return alike and not hooked and not few and not (self.training and is_synchronized())


@replaces(BatchNormAct2d)
def build_batch_norm_act(leaf: BatchNormAct2d, axis: str, depth: int | None, inflation: str) -> SparseBatchNormAct2d:
    """Builds the sparse layer of timm's BatchNormAct2d."""
    return SparseBatchNormAct2d(leaf)
