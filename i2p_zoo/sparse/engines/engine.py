"""What an engine of convolution is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from i2p_zoo.sparse.kernel_maps import KernelMap


class Engine(ABC):
    """Computes one convolution over a kernel map, and those of its gradients that are asked for; made anew for each call.

    Features are (N_in, C_in) and outputs (N_out, C_out). The weight is (C_out, all taps, C_in / groups) or, where each channel
    has one filter, (all taps, C); taps that the map does not hold read nothing.

    Args:
        kmap: which input each tap of each output reads.
        groups: number of channel groups.
    """

    package_name: str | None = None  # of the package that computes, where it is not our own code

    def __init__(self, kmap: KernelMap, groups: int = 1) -> None:
        self.kmap, self.groups = kmap, groups

    @abstractmethod
    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the output."""

    @abstractmethod
    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient of the features from that of the output."""

    @abstractmethod
    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient of the weight from that of the output."""

    def find_repeated_axis(self, weight: Tensor) -> int | None:
        """Returns the axis along which a (C_out, kz, ky, kx, C_in / groups) weight repeats, if it pays to sum there first."""
        return None

    def gradients(self, gradient: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both gradients."""
        return self.input_gradient(gradient, weight), self.weight_gradient(gradient, features, weight)


class DepthwiseEngine(Engine):
    """An engine for one filter a channel, whose input gradient is the same sum over the pairs the other way round."""

    @abstractmethod
    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns out[o] = sum over o's pairs of rows[source] * weight[tap]; transposed, from outputs back to inputs."""

    @abstractmethod
    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Returns the (K, C) gradient of the weights of the map's taps."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C) output."""
        return self.weigh(features, self._of_taps(weight), transposed=False)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_in, C) gradient of the features."""
        return self.weigh(gradient, self._of_taps(weight), transposed=True)

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (all taps, C) gradient of the weight."""
        if len(self.kmap.taps) == len(weight):
            return self.correlate(gradient, features)
        result = torch.zeros_like(weight)
        result[self.kmap.taps] = self.correlate(gradient, features)
        return result

    def _of_taps(self, weight: Tensor) -> Tensor:
        return weight if len(self.kmap.taps) == len(weight) else weight[self.kmap.taps]
