"""A classifier with BatchNorm on its logits, as Image2Point's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.batch_norm import is_synchronized, normalize_batch


class LogitNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, K) logits, over all processes where they train together."""

    def forward(self, logits: Tensor) -> Tensor:
        """Normalises (B, K) logits; raises InvalidInputError for a batch of 1 in training."""
        if self.training and len(logits) == 1 and not is_synchronized():
            raise InvalidInputError("This network normalises its logits over a batch: train it on two clouds or more at once.")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        return normalize_batch(
            logits, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )


class NormalizedLinear(nn.Linear):
    """A classifier whose logits are normalised."""

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.norm = LogitNorm(out_features, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, K) logits of (B, C) features."""
        logits: Tensor = self.norm(super().forward(x))
        return logits
