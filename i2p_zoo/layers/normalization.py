"""What counts as normalisation, the kinds whose own forward spreads a statistic over the whole image, and that of logits."""

from __future__ import annotations

from typing import Any

import timm.layers.norm
import torch
from timm.layers.evo_norm import EvoNorm2dS0, EvoNorm2dS0a
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.registry import replaces
from i2p_zoo.modules import classifier_of
from i2p_zoo.sparse.batch_norm import is_synchronized, normalize_batch
from i2p_zoo.sparse.pooling import in_single


@replaces(EvoNorm2dS0, EvoNorm2dS0a)
class SparseEvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al. 2020): x * sigmoid(v x) over the deviation of a channel group in a sample, then an affine map.

    Args:
        leaf: timm's layer; its parameters are shared, not copied.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: EvoNorm2dS0, **_: Any) -> None:
        super().__init__()
        self.groups, self.eps = leaf.groups, leaf.eps
        self.always_divides = type(leaf) is EvoNorm2dS0a
        self.weight, self.bias, self.v = leaf.weight, leaf.bias, leaf.v

    def forward(self, x: Any) -> Any:
        """Normalises (N, C) features."""
        batch, channels, height, width = x.shape
        gate = _as_gate(self.v).mul(x).sigmoid() if self.v is not None else 1
        if self.v is not None or self.always_divides:
            groups = in_single(x).reshape(batch, self.groups, channels // self.groups, height, width)
            deviation = (groups.var(dim=(2, 3, 4), unbiased=False, keepdim=True) + self.eps).sqrt().to(x.dtype)
            deviation = deviation.expand(-1, -1, channels // self.groups, -1, -1).reshape(batch, channels, 1, 1)
            x = x * gate / deviation
        return x * _as_gate(self.weight) + _as_gate(self.bias)


@replaces(FilterResponseNormTlu2d, FilterResponseNormAct2d)
class SparseFilterResponseNorm(nn.Module):
    """Filter response normalisation (Singh and Krishnan 2020): x over a channel's root mean square in a sample.

    Args:
        leaf: timm's layer; its parameters are shared, not copied.
        **_: a builder's other arguments.
    """

    def __init__(self, leaf: FilterResponseNormTlu2d | FilterResponseNormAct2d, **_: Any) -> None:
        super().__init__()
        self.eps = leaf.eps
        self.weight, self.bias = leaf.weight, leaf.bias
        self.tau = getattr(leaf, "tau", None)
        self.act = getattr(leaf, "act", nn.Identity())

    def forward(self, x: Any) -> Any:
        """Normalises (N, C) features."""
        square = in_single(x).square().mean(dim=(2, 3), keepdim=True)
        x = x * (square + self.eps).rsqrt().to(x.dtype)
        x = x * _as_gate(self.weight) + _as_gate(self.bias)
        return self.act(x if self.tau is None else torch.maximum(x, _as_gate(self.tau)))


def _as_gate(vector: Tensor) -> Tensor:
    return vector[:, None, None]


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
    """A classifier with BatchNorm on its logits, as Image2Point's."""

    def __init__(self, in_features: int, out_features: int, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.norm = LogitNorm(out_features, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, K) logits of (B, C) features."""
        logits: Tensor = self.norm(super().forward(x))
        return logits


NORMS: tuple[type[nn.Module], ...] = (
    *(_BatchNorm, nn.GroupNorm, nn.LayerNorm),
    *(norm for name, norm in vars(timm.layers.norm).items() if name.startswith(("RmsNorm", "SimpleNorm"))),
    *(GlobalResponseNorm, SparseEvoNorm, SparseFilterResponseNorm),
)
"""Every kind of normalisation layer that a network of timm, or an inflated one, may have."""


def keep_norms_in_eval_(model: Any) -> None:
    """Puts a network's normalisation layers into eval mode, but for those that train.

    A new classifier's train, which have no image's statistics, and those whose parameters were made to require gradients
    since; a layer that has none trains where all of the network's do.
    """
    classifier = classifier_of(model)
    new = set() if classifier is None else set(classifier.modules())
    all_train = all(parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, NORMS) and module not in new:
            trains = [parameter.requires_grad for parameter in module.parameters()] or [all_train]
            module.train(module.training and any(trains))
