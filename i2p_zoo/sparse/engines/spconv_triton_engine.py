"""Dense-channel convolution on CUDA by spconv-triton's kernels, straight on our tables."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.sparse.engines.engine import Engine
from i2p_zoo.sparse.engines.precision import allows_tf32
from i2p_zoo.sparse.engines.tiles import limit_tiles
from i2p_zoo.sparse.kernel_maps import KernelMap


class SpconvTritonConvolution(Engine):
    """Dense channels; half precision is added up in float32, TF32 goes by torch's switches.

    Its public functions run in float16 under any autocast and give both gradients always; the operations below them do neither.

    Args:
        package: spconv_triton, its `pytorch.functional` loaded.
        kmap: which input each tap of each output reads.
    """

    package_name = "spconv_triton"
    dtypes = (torch.float32, torch.float16, torch.bfloat16)

    def __init__(self, package: Any, kmap: KernelMap) -> None:
        super().__init__(kmap)
        self.package = package

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C_out) output."""
        weight, kmap = self._of_taps(weight), self.kmap
        if not kmap.num_outputs or not len(kmap.taps):
            return features.new_zeros((kmap.num_outputs, len(weight)))
        masks = kmap.sorted_masks
        options = {"pair_mask": masks.bits, "mask_argsort": masks.order, "fp32_accum": True}
        with torch.cuda.device_of(features):  # which need not be the current one
            out: Tensor = self._operations.conv_forward(features, weight, kmap.table, kmap.num_outputs, **options)
        return out

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_in, C_in) gradient of the features."""
        weight, kmap = self._of_taps(weight), self.kmap.inverse
        if not kmap.num_outputs or not len(kmap.taps):
            return gradient.new_zeros((kmap.num_outputs, weight.shape[2]))
        masks = kmap.sorted_masks
        options = {"pair_mask": masks.bits, "mask_argsort": masks.order, "fp32_accum": True}
        with torch.cuda.device_of(gradient):
            out: Tensor = self._operations.conv_backward_input(gradient, weight, kmap.table, kmap.num_outputs, **options)
        return out

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (C_out, all taps, C_in) gradient of the weight."""
        taps, table = self.kmap.taps, self.kmap.table
        shape = (len(weight), len(taps), weight.shape[2])
        if table.numel():
            _list_pairs_(table)
        with torch.cuda.device_of(gradient):
            part: Tensor = self._operations.conv_backward_weight(features, gradient, table, shape, fp32_accum=True)
        if len(taps) == weight.shape[1]:
            return part
        result = torch.zeros_like(weight)
        result[:, taps] = part
        return result

    def _of_taps(self, weight: Tensor) -> Tensor:
        return weight if len(self.kmap.taps) == weight.shape[1] else weight[:, self.kmap.taps]

    @property
    def _operations(self) -> Any:
        self.package.constants.SPCONV_ALLOW_TF32 = allows_tf32()
        return load_operations()


def _list_pairs_(table: Tensor) -> None:
    """Lists a table's pairs where the package looks for them, once for all layers of the map; it would wait for them."""
    if not hasattr(table, "_spconv_triton_dw_sig"):
        kernels: Any = require("i2p_zoo.sparse.kernels.pairs_triton", extra="triton")
        table._spconv_triton_dw_sig = kernels.list_pairs(table)  # type: ignore[attr-defined]


@functools.cache
def load_operations() -> Any:
    """Returns the package's matrix products, which then take one tile shape a layer shape.

    Forward passes and input gradients of as many channels each way run the same kernel, and read the weight along its rows or
    across them, as its stride tells.
    """
    gemm = importlib.import_module("spconv_triton.pytorch._impl.gemm")
    limit_tiles(gemm._gather_gemm_kernel, rows="M", columns="NR", shared="R", also_by=["s_wr"])
    limit_tiles(gemm._dweight_masked_kernel, rows="P", columns="KC", shared="P")
    return gemm
