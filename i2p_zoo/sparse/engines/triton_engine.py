"""Depthwise convolution on CUDA by our Triton kernels, where Triton is installed, as it is beside torch on Linux."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.engines.engine import DepthwiseEngine


def _load_kernels() -> Any:
    return require("i2p_zoo.sparse.kernels.depthwise_triton", extra="triton")


class TritonDepthwise(DepthwiseEngine):
    """One filter a channel."""

    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns the weighted sums."""
        out: Tensor = _load_kernels().forward(rows, weight, self.kmap.transposed if transposed else self.kmap.table)
        return out

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Returns the (K, C) gradient of the weights of the map's taps."""
        result: Tensor = _load_kernels().weight_gradient(features, gradient, self.kmap.table)
        return result
