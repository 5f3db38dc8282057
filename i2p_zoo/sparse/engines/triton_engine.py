"""Depthwise convolution on CUDA by our Triton kernels, where Triton is installed, as it is beside torch on Linux."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.engines.engine import DepthwiseEngine
from i2p_zoo.sparse.engines.tiles import choose_block


def _load_kernels() -> Any:
    return require("i2p_zoo.sparse.kernels.depthwise_triton", extra="triton")


class TritonDepthwise(DepthwiseEngine):
    """One filter a channel."""

    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns the weighted sums."""
        table = self.kmap.transposed if transposed else self.kmap.table

        def launch(block: tuple[int, int]) -> Tensor:
            out: Tensor = _load_kernels().forward(rows, weight, table, block)
            return out

        return launch(choose_block("depthwise", rows, len(table), launch))

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Returns the (K, C) gradient of the weights of the map's taps."""
        table = self.kmap.table

        def launch(block: tuple[int, int]) -> Tensor:
            result: Tensor = _load_kernels().weight_gradient(features, gradient, table, block)
            return result

        return launch(choose_block("depthwise weight gradient", features, len(table), launch))
