"""What `torch.utils.flop_counter.FlopCounterMode` counts of sparse convolutions: two for each product of a pair.

Modes of torch's dispatcher see its operators: no kernel of ours, and of engines that call torch some products. Where a mode is
on, an engine therefore runs inside an operator of its own, which hides what runs in it and tells how much that is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

Computation = Callable[[], Sequence[Tensor]]
_computations: dict[int, Computation] = {}
_numbers = itertools.count()

_library = torch.library.Library("i2p_zoo", "DEF")
for _name in ("convolution", "convolution_backward"):
    _library.define(f"{_name}(int products, int computation) -> Tensor[]")  # schemas know no functions
    _library.impl(_name, lambda products, computation: list(_computations[computation]()), "CompositeExplicitAutograd")
_operators = torch.ops.i2p_zoo


@register_flop_formula([_operators.convolution, _operators.convolution_backward])
def _count(products: int, *args: Any, **kwargs: Any) -> int:
    return 2 * products


def run_counted(compute: Computation, count_products: Callable[[], int], *, backward: bool = False) -> Sequence[Tensor]:
    """Returns what `compute` does; FLOP counters see one operator of so many products, and nothing inside it.

    Args:
        compute: gives new tensors.
        count_products: gives the number of multiplications, each with an addition; on a device it is waited for, so that it
            is asked for only where a mode is on.
        backward: whether the operator is that of gradients.
    """
    if not is_in_torch_dispatch_mode():
        return compute()
    operator = _operators.convolution_backward if backward else _operators.convolution
    number = next(_numbers)
    _computations[number] = compute
    try:
        result: Sequence[Tensor] = operator(count_products(), number)
    finally:
        del _computations[number]
    return result
