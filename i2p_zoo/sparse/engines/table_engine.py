"""The engine of recorded forwards: rows gathered by a table, and one product, in operations that every runtime has.

Tables are those of `TableMap`: one more than the row that is read, 0 for none.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.geometry import Triple
from i2p_zoo.sparse.kernel_maps import KernelMap
from i2p_zoo.sparse.recording import recorded_depthwise


class TableMap(KernelMap):
    """A map of a recorded forward: its table is an input of the graph, and holds the taps that some weight uses.

    Args:
        taps: their numbers.
        rows: (N_out, taps) int32, one more than the row that each reads, 0 for none; or of an inverse map, each output of which
            reads one row by one tap, (N_out,) int32, one more than row * len(taps) + the tap's place among them.
        num_inputs: number of input sites.
        kernel: extent (z, y, x) of the window.
    """

    def __init__(self, taps: list[int], rows: Tensor, num_inputs: int, kernel: Triple) -> None:
        self.taps, self.rows, self.num_inputs, self.kernel = taps, rows, num_inputs, kernel

    @property
    def table(self) -> Tensor:  # type: ignore[override]
        """(taps, N_out) int32, the row that each tap reads, -1 for none."""
        return (self.rows - 1).t()

    @property
    def num_outputs(self) -> int:
        """Number of output sites."""
        return self.rows.shape[0]


class TableConvolution(Engine):
    """Dense or grouped channels: one matrix product over all taps."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C_out) output."""
        table, used = _table(self.kmap), weight[:, self.kmap.taps]  # (C_out, K, C_in / groups)
        if table.ndim == 1:
            products = features @ used.permute(2, 1, 0).flatten(1)  # (N_in, K * C_out)
            return F.embedding(table, _with_absent(products.unflatten(1, (-1, len(used))).flatten(0, 1)))
        rows = F.embedding(table, _with_absent(features))  # (N_out, K, C_in)
        blocks = used.unflatten(0, (self.groups, -1)).permute(0, 2, 3, 1).flatten(1, 2)
        if self.groups == 1:
            return torch.mm(rows.flatten(1), blocks[0])
        grouped = rows.unflatten(2, (self.groups, -1)).permute(2, 0, 1, 3).flatten(2)  # (groups, N_out, K * C_in / groups)
        return torch.bmm(grouped, blocks).transpose(0, 1).flatten(1)

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
        return recorded_depthwise()(rows, _table(self.kmap), weight)

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Is not asked for: recorded forwards have no gradients."""
        raise NotImplementedError


class TableMaximum:
    """The maximum over each window."""

    @staticmethod
    def forward(features: Tensor, kmap: KernelMap) -> tuple[Tensor, None]:
        """Returns the (N_out, C) maxima, 0 where a window is empty."""
        table = _table(kmap)
        best = F.embedding(table, _with_absent(features, float("-inf"))).amax(1)
        return best.masked_fill((table == 0).all(1, keepdim=True), 0), None


def weigh_taps(features: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """Returns (N_out, C): over a table's taps (N_out, K) the sum of their rows of (N_in, C) features times weights (K, C)."""
    return (F.embedding(table, _with_absent(features)) * weight).sum(1)


def _table(kmap: KernelMap) -> Tensor:
    return cast(TableMap, kmap).rows


def _with_absent(values: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(values, (0, 0, 1, 0), value=value)
