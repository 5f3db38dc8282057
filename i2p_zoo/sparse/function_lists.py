"""torch functions that have handlers of one form, on voxels and on tokens alike: of each value alone, and arithmetic of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from i2p_zoo.sparse.dispatch import methods

ELEMENTWISE = methods(
    *"""
    relu relu_ relu6 silu sigmoid sigmoid_ logsigmoid hardswish hardsigmoid hardtanh hardtanh_ tanh tanh_ gelu mish elu elu_
    celu selu leaky_relu leaky_relu_ softplus softsign tanhshrink threshold rrelu dropout alpha_dropout clamp clamp_ clamp_min
    clamp_max exp log sqrt rsqrt square abs neg reciprocal clone nan_to_num sin cos __neg__ __pow__ pow
    """.split()
)
"""Functions whose first argument alone is a tensor."""


def as_operand(value: Any, values: Tensor) -> Tensor:
    """Returns a number, or numbers, as a tensor beside others: a number is filled in there, without a copy that waits."""
    return values.new_full((), value) if isinstance(value, int | float) else values.new_tensor(value)


class Arithmetic(NamedTuple):
    """A function of two tensors, by all of its names.

    Attributes:
        compute: of two of torch's tensors.
        plain: functions of (left, right).
        reflected: functions of (right, left), as `__radd__`.
        in_place: functions that write into the first.
    """

    compute: Callable[..., Tensor]
    plain: list[Any]
    reflected: list[Any]
    in_place: list[Any]

    @classmethod
    def of(cls, compute: Callable[..., Tensor], *names: str) -> Arithmetic:
        """Finds a function's forms by the names that torch has for it."""
        plain = methods(*names, *(f"__{name}__" for name in names))
        reflected = methods(*(f"__r{name}__" for name in names))
        return cls(compute, plain, reflected, methods(*(f"{name}_" for name in names), *(f"__i{name}__" for name in names)))


_ARITHMETIC = [
    Arithmetic.of(torch.add, "add"),
    Arithmetic.of(torch.sub, "sub"),
    Arithmetic.of(torch.mul, "mul"),
    Arithmetic.of(torch.div, "div", "truediv", "true_divide"),
    Arithmetic.of(torch.maximum, "maximum"),
    Arithmetic.of(torch.minimum, "minimum"),
]


def register_arithmetic(binary: Callable[..., None], in_place: Callable[[Any, Any], None]) -> None:
    """Registers handlers of arithmetic of two tensors under all of torch's names.

    Args:
        binary: registers one for `(compute, function, reflected=)`, where `compute` is of two of torch's tensors.
        in_place: registers one for `(compute, function)`, whose function writes into the first.
    """
    for compute, plain, reflected, written in _ARITHMETIC:
        for function in plain + reflected:
            binary(compute, function, reflected=function in reflected)
        for function in written:
            in_place(compute, function)
