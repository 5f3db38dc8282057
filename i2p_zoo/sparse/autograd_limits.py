"""What torch does with its own functions and cannot with ours: transforms of `torch.func`, and forward-mode gradients."""

from __future__ import annotations

from typing import Any

import torch

from i2p_zoo.errors import UnsupportedError


def check_transforms() -> None:
    """Raises UnsupportedError inside a transform of `torch.func`, which hides the sites' numbers from kernels."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "Sparse layers run inside no transform of `torch.func` (grad, vjp, jvp, vmap, jacrev): take gradients by "
            "`torch.autograd.grad`, also of `torch.func.functional_call`, which works, and call the network for each input."
        )


class ReverseModeFunction(torch.autograd.Function):
    """A function without forward-mode gradients, which says so."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raises UnsupportedError."""
        raise UnsupportedError("Sparse layers have no forward-mode gradients: use `torch.autograd.grad` or `backward`.")
