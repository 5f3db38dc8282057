"""The engine of recorded forwards: rows gathered by a table, and one product, in operations that every runtime has.

A table is (N_out, K): for each output and each of the map's taps one more than the row that it reads, 0 for none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.kernel_maps import KernelMap
from i2p_zoo.sparse.recording import keeps_depthwise


def _weigh(features: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """(N_out, C): the sum over a table's taps (N_out, K) of their rows of (N_in, C) features times their weights (K, C)."""
    return (F.embedding(table, _with_absent(features)) * weight).sum(1)


torch.library.custom_op("i2p_zoo::depthwise", _weigh, mutates_args=())
torch.library.register_fake(
    "i2p_zoo::depthwise", lambda features, table, weight: features.new_empty((table.shape[0], features.shape[1]))
)


class TableConvolution(Engine):
    """Dense or grouped channels: one matrix product over all taps."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C_out) output."""
        blocks = weight[:, self.kmap.taps].unflatten(0, (self.groups, -1))  # (groups, C_out / groups, K, C_in / groups)
        blocks = blocks.permute(0, 2, 3, 1).flatten(1, 2)
        if self.kmap.reads_one:
            products = features @ weight[:, self.kmap.taps].permute(2, 1, 0).flatten(1)  # (N_in, K * C_out)
            return F.embedding(self.kmap.places, _with_absent(products.unflatten(1, (-1, len(weight))).flatten(0, 1)))
        rows = F.embedding(self.kmap.rows, _with_absent(features))  # (N_out, K, C_in)
        if self.groups == 1:
            return rows.flatten(1) @ blocks[0]
        grouped = rows.unflatten(2, (self.groups, -1)).permute(2, 0, 1, 3).flatten(2)  # (groups, N_out, K * C_in / groups)
        return (grouped @ blocks).transpose(0, 1).flatten(1)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Is not asked for: recorded forwards have no gradients."""
        raise NotImplementedError

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Is not asked for: recorded forwards have no gradients."""
        raise NotImplementedError


class TableDepthwise(DepthwiseEngine):
    """One filter a channel."""

    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns the weighted sums."""
        compute: Any = torch.ops.i2p_zoo.depthwise if keeps_depthwise() else _weigh
        result: Tensor = compute(rows, self.kmap.rows, weight)
        return result

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Is not asked for: recorded forwards have no gradients."""
        raise NotImplementedError


class TableMaximum:
    """The maximum over each window."""

    @staticmethod
    def forward(features: Tensor, kmap: KernelMap) -> tuple[Tensor, None]:
        """Returns the (N_out, C) maxima, 0 where a window is empty."""
        best = F.embedding(kmap.rows, _with_absent(features, float("-inf"))).amax(1)
        return best.masked_fill((kmap.rows == 0).all(1, keepdim=True), 0), None


def _with_absent(values: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(values, (0, 0, 1, 0), value=value)
