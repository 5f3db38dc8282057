"""Torch's own operations, on any device and in any dtype: a tap's rows gathered, multiplied, added to their outputs.

Half precision is added up in float32, and rounded when all taps are summed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine


class TorchConvolution(Engine):
    """Dense or grouped channels, one matrix product a tap."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_out, C_out) output."""
        return self._multiply(features, self._blocks(weight).transpose(2, 3), transposed=False)

    def input_gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Returns the (N_in, C_in) gradient of the features."""
        return self._multiply(gradient, self._blocks(weight), transposed=True)

    def weight_gradient(self, gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Returns the (C_out, all taps, C_in / groups) gradient of the weight."""
        result = torch.zeros_like(weight)
        for tap, inputs, outputs in self.kmap.pairs:
            result[:, tap] = self._correlate(_take_rows(gradient, outputs), _take_rows(features, inputs))
        return result

    def _multiply(self, rows: Tensor, blocks: Tensor, *, transposed: bool) -> Tensor:
        """Sums rows times their tap's block, of (all taps, groups, C_rows / groups, C_outputs / groups)."""
        count = self.kmap.num_inputs if transposed else self.kmap.num_outputs
        out = rows.new_zeros((count, self.groups * blocks.shape[3]), dtype=_wide(rows.dtype))
        for tap, inputs, outputs in self.kmap.pairs:
            source, target = (outputs, inputs) if transposed else (inputs, outputs)
            taken, block = _take_rows(rows, source), blocks[tap]
            if self.groups == 1:
                product = taken @ block[0]
            else:
                product = torch.bmm(self._grouped(taken), block).transpose(0, 1).flatten(1)
            _add_rows(out, target, product)
        return out.to(rows.dtype)

    def _blocks(self, weight: Tensor) -> Tensor:
        blocks: Tensor = weight.unflatten(0, (self.groups, -1))
        return blocks.permute(2, 0, 1, 3)  # (all taps, groups, C_out / groups, C_in / groups)

    def _correlate(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """A tap's (C_out, C_in / groups) weight gradient."""
        if self.groups == 1:
            return gradient.t() @ rows
        return torch.bmm(self._grouped(gradient).transpose(1, 2), self._grouped(rows)).flatten(0, 1)

    def _grouped(self, rows: Tensor) -> Tensor:
        blocks: Tensor = rows.unflatten(1, (self.groups, -1))
        return blocks.transpose(0, 1)  # (groups, n, C / groups)


class TorchDepthwise(DepthwiseEngine):
    """One filter a channel."""

    def weigh(self, rows: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
        """Returns the weighted sums."""
        count, dtype = self.kmap.num_inputs if transposed else self.kmap.num_outputs, _wide(rows.dtype)
        out = rows.new_zeros((count, rows.shape[1]), dtype=dtype)
        for factors, (_, inputs, outputs) in zip(weight.to(dtype), self.kmap.pairs, strict=True):
            source, target = (outputs, inputs) if transposed else (inputs, outputs)
            _add_rows(out, target, _take_rows(rows, source) * factors)
        return out.to(rows.dtype)

    def correlate(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Returns the (K, C) gradient of the weights of the map's taps."""
        gradient, rows = gradient.to(_wide(gradient.dtype)), features.to(_wide(features.dtype))
        products = [(_take_rows(gradient, out) * _take_rows(rows, read)).sum(0) for _, read, out in self.kmap.pairs]
        result = torch.stack(products) if products else rows.new_zeros((0, rows.shape[1]))
        return result.to(features.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of a dtype are added up."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _take_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def _add_rows(out: Tensor, rows: Tensor | None, values: Tensor) -> None:
    if rows is None:
        out += values
    else:
        out.index_add_(0, rows, values.to(out.dtype))
