"""Dense-channel convolution on CUDA by spconv or spconv-triton, whose functions are the same, on our kernel maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from i2p_zoo.sparse.engines.engine import Engine
from i2p_zoo.sparse.kernel_maps import KernelMap


class SpconvConvolution(Engine):
    """Dense channels. TF32 follows `torch.backends.cuda.matmul.allow_tf32`; bfloat16 runs as float16 where it is unknown.

    Args:
        package: the package, its `pytorch.functional` loaded.
        kmap: which input each tap of each output reads.
    """

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
        """Returns the (C_out, all taps, C_in) gradient of the weight, which the packages do not compute alone."""
        return self.gradients(gradient, features, weight)[1]

    def gradients(self, gradient: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both gradients."""
        operands = (self._prepare(features), self._prepare(weight.unflatten(1, self.kmap.kernel)), self._prepare(gradient))
        of_input, of_weight = self._operations.indice_conv_backward(*operands, *self.kmap.pair_table, algo=self._native)
        return of_input.to(features.dtype), of_weight.flatten(1, 3).to(weight.dtype)

    def _convolve(self, rows: Tensor, weight: Tensor, outputs: int, *, inverse: bool) -> Tensor:
        operands = (self._prepare(rows), self._prepare(weight.unflatten(1, self.kmap.kernel)))
        out = self._operations.indice_conv(*operands, *self.kmap.pair_table, outputs, inverse, algo=self._native)
        result: Tensor = out.to(rows.dtype)
        return result

    @property
    def _operations(self) -> Any:
        self.package.constants.SPCONV_ALLOW_TF32 = torch.backends.cuda.matmul.allow_tf32
        return self.package.pytorch.ops

    @property
    def _native(self) -> Any:
        return self.package.core.ConvAlgo.Native

    def _prepare(self, tensor: Tensor) -> Tensor:
        is_unknown = tensor.dtype == torch.bfloat16 and self.package.__name__ == "spconv"
        return (tensor.half() if is_unknown else tensor).contiguous()
