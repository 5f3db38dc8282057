"""Dense-channel convolution on CUDA by spconv, on our kernel maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo.sparse.engines.engine import Engine
from i2p_zoo.sparse.engines.precision import allows_tf32
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution
from i2p_zoo.sparse.kernel_maps import KernelMap


class SpconvConvolution(Engine):
    """Dense channels, in the dtypes that spconv knows; TF32 by torch's switches.

    Args:
        package: spconv, its `pytorch.functional` loaded.
        kmap: which input each tap of each output reads.
    """

    package_name = "spconv"
    dtypes = (torch.float32, torch.float16)

    def __init__(self, package: Any, kmap: KernelMap) -> None:
        super().__init__(kmap)
        self.package = package

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C_out) output."""
        return self._convolve(features, weight, self.kmap.num_outputs, inverse=False)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_in, C_in) gradient of the features: each tap transposed, its pairs the other way round."""
        return self._convolve(gradient, weight.transpose(0, 2), self.kmap.num_inputs, inverse=True)

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (C_out, all taps, C_in) gradient of the weight by torch: spconv gives no less than both."""
        return TorchConvolution(self.kmap).weight_gradient(gradient, features, weight)

    def gradients(self, gradient: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both gradients."""
        operands = (features.contiguous(), weight.unflatten(1, self.kmap.kernel).contiguous(), gradient.contiguous())
        of_input, of_weight = self._operations.indice_conv_backward(*operands, *self.kmap.pair_table, algo=self._native)
        return of_input, of_weight.flatten(1, 3)

    def _convolve(self, rows: Tensor, weight: Tensor, outputs: int, *, inverse: bool) -> Tensor:
        operands = (rows.contiguous(), weight.unflatten(1, self.kmap.kernel).contiguous())
        out: Tensor = self._operations.indice_conv(*operands, *self.kmap.pair_table, outputs, inverse, algo=self._native)
        return out

    @property
    def _operations(self) -> Any:
        self.package.constants.SPCONV_ALLOW_TF32 = allows_tf32()
        return self.package.pytorch.ops

    @property
    def _native(self) -> Any:
        return self.package.core.ConvAlgo.Native
