"""The maximum over each window on a device: Triton's kernels, or torch's own operations a tap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.kernel_maps import KernelMap


class TritonMaximum:
    """The maximum over each window, in one launch each way."""

    @staticmethod
    def forward(features: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor]:
        """Returns the (N_out, C) maxima and the int32 rows they came from; 0 and -1 where a window is empty."""
        out, source = _load_kernels().forward(features, kmap.table)
        return out, source

    @staticmethod
    def input_gradient(gradient: Tensor, source: Tensor, kmap: KernelMap) -> Tensor:
        """Returns the (N_in, C) gradient of the features, the same bits in each run."""
        out: Tensor = _load_kernels().input_gradient(gradient, kmap.transposed, source)
        return out


class TorchMaximum:
    """The maximum over each window, tap by tap."""

    @staticmethod
    def forward(features: Tensor, kmap: KernelMap) -> tuple[Tensor, Tensor]:
        """Returns the (N_out, C) maxima and the int32 rows they came from; 0 and -1 where a window is empty."""
        best = features.new_zeros((kmap.num_outputs, features.shape[1]))
        source = torch.full(best.shape, -1, dtype=torch.int32, device=best.device)
        for row in kmap.table:
            value = features[row.clamp(min=0).long()]
            better = (row >= 0)[:, None] & ((source < 0) | (value > best) | value.isnan())
            best = torch.where(better, value, best)
            source = torch.where(better, row[:, None], source)
        return best, source

    @staticmethod
    def input_gradient(gradient: Tensor, source: Tensor, kmap: KernelMap) -> Tensor:
        """Returns the (N_in, C) gradient of the features, added up tap by tap: atomic sums would differ from run to run."""
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        out = gradient.new_zeros((kmap.num_inputs, gradient.shape[1]), dtype=wide)
        rows = torch.arange(kmap.num_inputs, dtype=torch.int32, device=gradient.device)[:, None]
        for row in kmap.transposed:
            target = row.clamp(min=0).long()
            is_source = (row >= 0)[:, None] & (source[target] == rows)
            out += torch.where(is_source, gradient[target], 0)
        return out.to(gradient.dtype)


def _load_kernels() -> Any:
    return require("i2p_zoo.sparse.kernels.maxima_triton", extra="triton")
