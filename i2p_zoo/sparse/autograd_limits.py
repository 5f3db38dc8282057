"""What torch does with its own functions and cannot with ours: recorded graphs, `torch.func` and forward-mode gradients."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.recording import is_recorded

F = TypeVar("F")


def run_uncompiled(method: F) -> F:
    """Has `torch.compile` leave a method of a network as it is: it cannot compile what makes and reads sites."""
    result: F = torch.compiler.disable(method, reason="The sites of a network of i2p_zoo depend on the clouds.")
    return result


def check_transforms() -> None:
    """Raises UnsupportedError inside a transform of `torch.func` or a recorded graph, which have no numbers of sites."""
    if is_recorded():
        return
    refuse_graphs(torch._C._get_tracing_state() is not None or torch.compiler.is_exporting())
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "Sparse layers run inside no transform of `torch.func` (grad, vjp, jvp, vmap, jacrev): take gradients by "
            "`torch.autograd.grad`, also of `torch.func.functional_call`, which works, and call the network for each input."
        )


def refuse_graphs(is_recorded: bool) -> None:
    """Raises UnsupportedError where torch records a graph of operations, which would be of one cloud's sites."""
    if is_recorded:
        raise UnsupportedError(
            "`torch.jit`, `torch.export`, ONNX and TensorBoard's graph cannot record a network whose sites depend on the "
            "clouds: save it with `save_pretrained` and run it with i2p_zoo, or export it with `i2p_zoo.export_onnx`."
        )


class ReverseModeFunction(torch.autograd.Function):
    """A function without forward-mode gradients, which says so."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raises UnsupportedError."""
        raise UnsupportedError("Sparse layers have no forward-mode gradients: use `torch.autograd.grad` or `backward`.")
