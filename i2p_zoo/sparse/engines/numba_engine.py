"""The CPU's engine: numba kernels for float32 and float64.

Dense and grouped channels run as products of gathered rows with packed weights, depthwise as one fused pass.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.kernel_maps import KernelMap
from i2p_zoo.sparse.kernels import columns, depthwise_numba, dot_products, matrix, max_pooling
from i2p_zoo.sparse.recording import is_recorded
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

_ROWS_A_CHANNEL = 2  # fewer rows a tap than this times their channels are few
_SUM_COST = 16  # adding one row costs as much as this many outputs of a matrix product with it


def has_kernel(tensor: Tensor) -> bool:
    """Whether the numba kernels take a tensor: float32 or float64 on the CPU, where no forward is recorded."""
    return not (takes_device_path(tensor) or is_recorded()) and tensor.dtype in (torch.float32, torch.float64)


class NumbaConvolution(Engine):
    """Dense or grouped channels. Taps that are all zero are not multiplied, whatever stands on their voxels."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the output; notes which taps are not all zero, for the input's gradient."""
        self._taps = np.array(self.kmap.taps, np.int64)
        self._used = np.empty(len(self._taps), np.bool_)
        bounds = chunk_bounds(len(self._taps), minimum=1)
        run_chunks(matrix.find_used_taps, bounds, weight, self._taps, self._used)
        if not self._has_few_rows(features):
            return self._multiply_rows(features, weight, self.kmap.table)
        out = features.new_zeros((self.kmap.num_outputs, weight.shape[0]))
        bounds = chunk_bounds(-(-len(weight) // dot_products.CHANNELS), minimum=1)
        arrays = (features.contiguous(), self.kmap.table, self._taps, weight.contiguous().flatten(1), self._used, out)
        run_chunks(dot_products.multiply_few_rows, bounds, *arrays)
        return out

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_in, C_in) gradient of the features."""
        if not self._has_few_rows(gradient):
            blocks = weight.unflatten(0, (self.groups, -1))  # (groups, C_out / groups, K, C_in / groups)
            return self._multiply_rows(gradient, blocks.permute(0, 3, 2, 1).flatten(0, 1), self.kmap.transposed)
        panels = -(-weight.shape[2] // (matrix.PANEL_BYTES // weight.element_size()))
        bounds = chunk_bounds(panels, minimum=1)
        out = gradient.new_zeros((self.kmap.num_inputs + len(bounds), weight.shape[2]))
        arrays = (gradient.contiguous(), self.kmap.transposed, weight.contiguous(), self._taps, self._used, out)
        run_chunks(matrix.multiply_few_rows_back, bounds, *arrays)
        return out[: self.kmap.num_inputs]

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (C_out, all taps, C_in / groups) gradient of the weight."""
        inputs, outputs = features.shape[1] // self.groups, gradient.shape[1] // self.groups
        part = features.new_zeros((self.groups * outputs, len(self.kmap.taps), inputs))
        left = _at_least(gradient, matrix.TILE_ROWS)
        right = _at_least(features, matrix.PANEL_BYTES // features.element_size())
        bounds = chunk_bounds(self.groups * -(-outputs // matrix.TILE_ROWS), minimum=1)
        arrays = (right, left, self.kmap.table, self.groups, inputs, outputs, part.flatten(1))
        run_chunks(matrix.correlate_rows, bounds, *arrays)
        result = torch.zeros_like(weight)
        result[:, self.kmap.taps] = part
        return result

    def find_repeated_axis(self, weight: Tensor) -> int | None:
        """Returns the axis along which a weight repeats, as average and copy leave it, if it pays to sum there first."""
        for axis in range(3):
            if weight.shape[1 + axis] > 1 and _repeats(weight, axis):
                along, plane = self.kmap.split(axis)
                cost = plane.num_pairs + along.num_pairs * _SUM_COST / weight.shape[0]
                return axis if cost < self.kmap.num_pairs else None
        return None

    def _has_few_rows(self, rows: Tensor) -> bool:
        """Whether so few rows are multiplied by each tap that laying its weights out anew for them does not pay."""
        return self.groups == 1 and self.kmap.num_pairs < len(self.kmap.taps) * rows.shape[1] * _ROWS_A_CHANNEL

    def _multiply_rows(self, rows: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        """Sums rows[table[k, o]] times the map's k-th tap of a (C_out, all taps, C_in / groups) weight, into (N_out, C_out)."""
        width = matrix.PANEL_BYTES // rows.element_size()
        outputs, _, depth = weight.shape
        panels = self.groups * -(-(outputs // self.groups) // width)
        packed = rows.new_empty((len(table), panels, depth, width))
        bounds = chunk_bounds(len(table), minimum=1)
        run_chunks(matrix.pack_weight, bounds, weight, self._taps, self.groups, self._used, packed)
        bounds = chunk_bounds(table.shape[1], minimum=32)
        out = rows.new_zeros((table.shape[1] + len(bounds), outputs))
        run_chunks(matrix.multiply_rows, bounds, rows.contiguous(), table, packed, self._used, self.groups, out)
        return out[: table.shape[1]]


def _at_least(rows: Tensor, width: int) -> Tensor:
    """(N, C) contiguous, with columns of zeros behind where C is less than `width`."""
    missing = max(width - rows.shape[1], 0)
    return F.pad(rows.detach(), (0, missing)).contiguous()


def _repeats(weight: Tensor, axis: int) -> bool:
    """Whether a (C_out, kz, ky, kx, C_in / groups) weight is the same at every place along an axis."""
    bounds = chunk_bounds(len(weight), minimum=1)
    differs = np.zeros(len(bounds), np.bool_)
    run_chunks(columns.find_differences, bounds, weight.detach().contiguous(), axis, differs)
    return not differs.any()


class NumbaDepthwise(DepthwiseEngine):
    """One filter a channel, in one pass over all taps with no temporary."""

    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns the weighted sums; taps that are all zero are not read."""
        pairs = self.kmap.pairs_by_input if transposed else self.kmap.pairs_by_output
        out = rows.new_empty((len(pairs.ends), rows.shape[1]))
        arrays = (rows.contiguous(), *pairs, weight.contiguous(), out)
        run_chunks(depthwise_numba.depthwise_forward, chunk_bounds(len(out)), *arrays)
        return out

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Returns the (K, C) gradient; chunks are summed in order, so the bits depend on the thread count only."""
        bounds = chunk_bounds(len(gradient))
        partial = features.new_zeros((len(bounds), len(self.kmap.taps), features.shape[1]))
        arrays = (features.contiguous(), *self.kmap.pairs_by_output, gradient.contiguous(), partial)
        run_chunks(depthwise_numba.depthwise_weight_gradient, bounds, *arrays)
        return partial.sum(0)


class NumbaMaximum:
    """The maximum over each window."""

    @staticmethod
    def forward(features: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor]:
        """Returns the (N_out, C) maxima and the int32 rows they came from; 0 and -1 where a window is empty."""
        out = features.new_empty((kmap.num_outputs, features.shape[1]))
        source = torch.empty(out.shape, dtype=torch.int32)
        run_chunks(max_pooling.max_forward, chunk_bounds(len(out)), features.contiguous(), kmap.table, out, source)
        return out, source

    @staticmethod
    def input_gradient(gradient: Tensor, source: Tensor, kmap: KernelMap) -> Tensor:
        """Returns the (N_in, C) gradient of the features."""
        out = gradient.new_empty((kmap.num_inputs, gradient.shape[1]))
        run_chunks(max_pooling.max_backward, chunk_bounds(len(out)), gradient.contiguous(), kmap.transposed, source, out)
        return out
