"""The tensors of an inflated network: from the 2D state dict, to another mode of inflation, and back to 2D kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.report import InflationReport, ParameterRecord
from i2p_zoo.layers.kernel_inflation import check_inflation, differing_bits, has_same_bits
from i2p_zoo.wording import count_of


def inflate_state(state: Mapping[str, Tensor], structure: Any) -> tuple[dict[str, Tensor], InflationReport]:
    """Maps a 2D state dict onto a 3D structure: a pure function of the two.

    Args:
        state: the 2D network's state dict.
        structure: from `inflate_structure`, which knows the inflation.

    Returns:
        A 3D state dict with exactly the same keys (copied tensors are clones), and the report of every tensor.

    Raises:
        CheckpointError: keys or shapes that do not fit; all are named.
    """
    inflation = structure.provenance.settings.inflation
    targets = structure.state_dict()
    problems = [f"missing {key}" for key in targets if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in targets]
    result: dict[str, Tensor] = {}
    records = []
    for key, source in state.items():
        if key not in targets:
            continue
        inflated = inflate_tensor(structure, key, source.detach(), inflation)
        value = source.detach().clone() if inflated is None else inflated
        shapes = tuple(source.shape), tuple(targets[key].shape)
        if tuple(value.shape) != shapes[1]:
            problems.append(f"{key}: 2D shape {shapes[0]} does not inflate to {shapes[1]}")
            continue
        result[key] = value
        rule, reason = ("copied", "") if inflated is None else ("inflated", inflation)
        records.append(ParameterRecord(key, *shapes, rule, reason))
    if problems:
        raise CheckpointError(
            f"The 2D state dict does not fit the network ({count_of(len(problems), 'problem')}): " + "; ".join(problems)
        )
    return result, InflationReport(records)


def inflate_tensor(structure: nn.Module, key: str, source: Tensor, inflation: str) -> Tensor | None:
    """Returns the 3D tensor of a 2D network's tensor `key`, or None where the rule is to copy it."""
    layer, name = _owner(structure, key)
    inflated: Tensor | None = layer.inflate_tensor(name, source, inflation) if hasattr(layer, "inflate_tensor") else None
    return inflated


def find_differences(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor | None]:
    """Finds where an inflated network's tensors are not, bit for bit, what the rule of inflation makes of their 2D sources.

    Args:
        state: the 2D network's tensors by name.
        model: a network with a `provenance`, which knows the inflation; its tensors have the same names.

    Returns:
        For each tensor that differs a mask of its shape, True where the bits do; None for one that only one of the networks
        has or that has another shape. Values of another dtype are compared in the wider one.
    """
    inflation = model.provenance.settings.inflation
    targets = named_tensors(model)
    differences: dict[str, Tensor | None] = dict.fromkeys(state.keys() ^ targets.keys())
    for key in state.keys() & targets.keys():
        source, target = state[key], targets[key]
        inflated = inflate_tensor(model, key, source, inflation)
        expected = source if inflated is None else inflated
        if expected.shape != target.shape:
            differences[key] = None
            continue
        dtype = torch.promote_types(expected.dtype, target.dtype)
        expected, actual = expected.to(target.device, dtype), target.to(dtype)
        if not has_same_bits(expected, actual):
            differences[key] = differing_bits(expected, actual)
    return {key: differences[key] for key in [*targets, *state] if key in differences}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the detached tensors of a network's state dict."""
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def tie_parameters_(structure: nn.Module, model: nn.Module) -> None:
    """Gives the parameters of a 3D network the `requires_grad` of their 2D sources, and ties those that are tied there."""
    firsts: dict[int, nn.Parameter] = {}
    for name, source in model.named_parameters(remove_duplicate=False):
        first = firsts.setdefault(id(source), structure.get_parameter(name))
        layer, attribute = _owner(structure, name)
        setattr(layer, attribute, first.requires_grad_(source.requires_grad))


def reinflate_(model: Any, inflation: str) -> None:
    """Gives an inflated network the kernels of another mode, in place, as if its 2D source had been inflated by that.

    Bit for bit from "center" and "copy"; "triangle" and "average" have divided their source, which comes back rounded.

    Args:
        model: a `PointCloudModel` whose kernels are still pure inflations.
        inflation: "center", "triangle", "average" or "copy".

    Raises:
        InvalidInputError: an unknown mode, or a kernel that was trained or made anew; the network is as it was.
    """
    check_inflation(inflation)
    before = model.provenance.settings.inflation
    if inflation == before:
        return
    result: list[tuple[nn.Parameter, Tensor]] = []
    for key, tensor in model.named_parameters():
        layer, name = _owner(model, key)
        if name == "weight" and hasattr(layer, "deflate_tensor"):
            kernel = layer.deflate_tensor(name, tensor.detach(), before)
            if kernel is None:
                raise InvalidInputError(
                    f"{key} is no longer a pure inflation by {before!r}, so it cannot be inflated by {inflation!r}: "
                    "load the network that it was finetuned from."
                )
            result.append((tensor, layer.inflate_tensor(name, kernel, inflation)))
    for tensor, inflated in result:
        tensor.data = inflated
    model.provenance = model.provenance.with_settings(inflation=inflation)


def deflate_state(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts 2D kernels in place of those weights of a network's state dict that they inflate to, bit for bit."""
    kernels = {key: deflate_kernel(model, key, tensor) for key, tensor in state.items()}
    # A clone has a new tensor's strides, also where a side is 1 long: torch chooses by them how it adds up.
    plain = torch.contiguous_format
    return {key: state[key] if kernel is None else kernel.clone(memory_format=plain) for key, kernel in kernels.items()}


def deflate_kernel(model: Any, key: str, tensor: Tensor) -> Tensor | None:
    """Returns the 2D kernel that a tensor `key` of a network's state is the pure inflation of, or None where there is none."""
    layer, name = _owner(model, key)
    if not hasattr(layer, "deflate_tensor"):
        return None
    kernel: Tensor | None = layer.deflate_tensor(name, tensor, model.provenance.settings.inflation)
    return kernel


def undo_deflation_(model: Any, state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Undoes `deflate_state`, in place: inflates the tensors that are not of the shape expected; what fits nothing stays."""
    for key, target in expected.items():
        if key in state and state[key].shape != target.shape and state[key].dtype == target.dtype:
            layer, name = _owner(model, key)
            if hasattr(layer, "deflate_tensor"):
                inflated = layer.inflate_tensor(name, state[key], model.provenance.settings.inflation)
                state[key] = state[key] if inflated is None else inflated


def _owner(model: nn.Module, key: str) -> tuple[Any, str]:
    """The module that owns a tensor of a state dict, and the tensor's name in it."""
    path, _, name = key.rpartition(".")
    return model.get_submodule(path), name
