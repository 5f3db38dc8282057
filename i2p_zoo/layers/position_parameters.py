"""Parameters that say where a token stands, or that stand for a token themselves: found by what a forward does with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.modules import probe_mode
from i2p_zoo.sparse.dispatch import name_of, watch_calls
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.tokens.layout import site_atoms
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor

EXTRA_TOKEN, POSITION_TABLE, RELATIVE_BIAS = "extra token", "position table", "relative biases"
_BINARY = {"add", "sub", "mul", "div", "true_divide", "truediv"}


def find_position_parameters(model: Any) -> dict[str, str]:
    """Finds the parameters that tell an inflated network where its tokens stand, and its extra tokens, by running one voxel.

    A parameter is a position table where the forward reads it, or what it computes from parameters alone, at the places of
    tokens: a table of places, or of differences of places (or the layers that make one of coordinates). It is an extra token
    where it is joined to the tokens, as class and register tokens are.

    Args:
        model: an inflated network; it is left as it is.

    Returns:
        "extra token", "position table" or "relative biases" by the parameter's qualified name, in the network's order. Empty
        for a network whose forward takes no voxels for tokens.
    """
    if model.provenance.settings.canvas is None:
        return {}
    parameters = {id(parameter): parameter for parameter in model.parameters() if parameter.is_floating_point()}
    if not parameters or any(parameter.is_meta for parameter in parameters.values()):
        return {}
    weight = next(iter(parameters.values()))
    coords = torch.zeros(1, 4, dtype=torch.int32, device=weight.device)
    sorts: dict[int, str] = {}
    with probe_mode(model), torch.inference_mode(False), torch.enable_grad(), _requiring_gradients(list(parameters.values())):
        features = weight.new_zeros(1, model.in_chans, requires_grad=True)
        graph = _Graph(features)

        def watch(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
            for operand, sort in _read_operands(name_of(function).rpartition(".")[2], args, kwargs):
                for identity in graph.parameters_of(operand):
                    sorts.setdefault(identity, sort)

        with watch_calls(watch), contextlib.suppress(Exception):  # a user's forward may fail
            model(SparseTensor(features, coords, batch_size=1))
    names = model.named_parameters(remove_duplicate=False)
    return {name: sorts[id(parameter)] for name, parameter in names if id(parameter) in sorts}


@contextlib.contextmanager
def _requiring_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, state in zip(parameters, before, strict=True):
            parameter.requires_grad_(state)


class _Graph:
    """Which parameters a dense tensor was computed from, by autograd's graph; none where the input went in as well."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.leaves: dict[Any, frozenset[int] | None] = {}

    def parameters_of(self, tensor: Tensor) -> frozenset[int]:
        """The ids of the parameters; empty where the tensor depends on the input."""
        if tensor.grad_fn is None:
            return frozenset([id(tensor)]) if tensor.requires_grad and tensor is not self.features else frozenset()
        pending = [tensor.grad_fn]
        while pending:
            node = pending[-1]
            inputs = [source for source, _ in node.next_functions if source is not None]
            missing = [source for source in inputs if source not in self.leaves]
            if node in self.leaves or not missing:
                pending.pop()
                self.leaves.setdefault(node, self._join(node, inputs))
            else:
                pending += missing
        return self.leaves[tensor.grad_fn] or frozenset()

    def _join(self, node: Any, inputs: list[Any]) -> frozenset[int] | None:
        """The parameters behind a node of the graph; None where the input is among its leaves."""
        variable = getattr(node, "variable", None)
        if variable is not None:
            return None if variable is self.features else frozenset([id(variable)])
        parts = [self.leaves[source] for source in inputs]
        known = [part for part in parts if part is not None]
        return frozenset().union(*known) if len(known) == len(parts) else None


def _read_operands(name: str, args: Any, kwargs: dict[str, Any]) -> Iterator[tuple[Tensor, str]]:
    """The dense operands of a call on voxels or tokens that are read at places or become tokens, each with what it is then."""
    name = name.strip("_")
    if name in ("cat", "concat", "concatenate"):
        yield from ((each, EXTRA_TOKEN) for each in args[0] if isinstance(each, Tensor))
    elif name == "scaled_dot_product_attention":
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        if isinstance(mask, Tensor) and mask.numel() > 1:
            yield mask, RELATIVE_BIAS
    elif name == "einsum":
        yield from _read_by_letters(args[0], args[1:])
    elif name in _BINARY or name[1:] in _BINARY:
        first, second = args[:2]
        dense, x = (first, second) if isinstance(first, Tensor) else (second, first)
        if isinstance(dense, Tensor) and isinstance(x, SparseTensor | TokenTensor):
            sizes = dict(enumerate(reversed(dense.shape)))
            is_of_tokens = any(is_place and sizes.get(dim, 1) > 1 for dim, is_place in enumerate(reversed(_place_dims(x))))
            if is_of_tokens or (_is_of_windows(x) and sizes.get(0, 1) > 1 and sizes.get(1, 1) > 1):
                yield dense, RELATIVE_BIAS if isinstance(x, TokenTensor) and x.is_pairs else POSITION_TABLE


def _read_by_letters(equation: Any, operands: Any) -> Iterator[tuple[Tensor, str]]:
    """Dense operands of `torch.einsum` that share a letter with the places of tokens."""
    if not isinstance(equation, str) or "." in equation or len(operands) != 2:
        return
    letters = equation.partition("->")[0].replace(" ", "").split(",")
    for x, other, mine, theirs in ((*operands, *letters), (*operands[::-1], *letters[::-1])):
        if isinstance(x, SparseTensor | TokenTensor) and isinstance(other, Tensor):
            places = {letter for letter, is_place in zip(mine, _place_dims(x), strict=True) if is_place}
            if places & set(theirs):
                yield other, RELATIVE_BIAS


def _place_dims(x: Any) -> list[bool]:
    """For each dimension of voxels or tokens whether it has places in it."""
    if isinstance(x, SparseTensor):
        return [dim in x.site_dims for dim in range(x.ndim)]
    return [any(atom.role not in ("b", "c") for atom in dim) for dim in x.dims]


def _is_of_windows(x: Any) -> bool:
    """Whether dimensions are (windows, channels, height, width): a window's places are channels, as `unfold` makes them."""
    return [bool(site_atoms((dim,))) for dim in getattr(x, "dims", ())] == [True, False, False, False]
