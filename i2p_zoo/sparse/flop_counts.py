"""What sparse convolutions compute, told to `torch.utils.flop_counter`, which sees torch's operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("i2p_zoo::multiply_adds", mutates_args=())
def _multiply_adds(features: Tensor, count: int) -> None:
    """Computes nothing; it is what a counter sees."""


@register_flop_formula(torch.ops.i2p_zoo.multiply_adds)
def _count_flops(shape: Any, count: int, *args: Any, **kwargs: Any) -> int:
    return 2 * count


def tell_flop_counters(features: Tensor, count: int) -> None:
    """Tells an active `FlopCounterMode` of multiply-adds, those of pairs of sites that are there alone.

    Args:
        features: of the layer, any shape.
        count: of multiply-adds.
    """
    if torch._C._len_torch_dispatch_stack():  # else nobody counts
        torch.ops.i2p_zoo.multiply_adds(features, count)
