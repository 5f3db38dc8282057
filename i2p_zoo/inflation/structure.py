"""Inflation: from a 2D network to its sparse 3D twin. Structure and weights are separate steps; a report maps every tensor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import CheckpointError, InvalidInputError, UnsupportedError
from i2p_zoo.inflation.report import InflationReport, ParameterRecord
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers import find_builder, is_supported, supported_types
from i2p_zoo.layers.kernel_inflation import check_axis, check_depth, check_inflation
from i2p_zoo.networks.point_cloud_model import PointCloudModel, make_point_cloud_model


def inflate(model: nn.Module, inflation: str = "center", axis: str = "z", depth: int | None = None) -> nn.Module:
    """Turns a 2D network into a sparse 3D one with the same parameter names and the same forward code.

    Args:
        model: any module of convolutions, normalisation and pooling; left untouched.
        inflation: "center" puts a 2D kernel into the plane through the output site, zeros elsewhere; "average" repeats it
            along the new axis divided by the length (I3D, Carreira and Zisserman 2017); "copy" repeats it undivided
            (Image2Point, Xu et al. 2022).
        axis: the new axis, "z", "y" or "x".
        depth: the longest kernel along it; by default a kernel is as long there as its larger side.

    Returns:
        A new module of a subclass of the model's own class; it takes a SparseTensor or point clouds. Its `report`
        attribute is the `InflationReport`.

    Raises:
        UnsupportedError: the model owns parameters in modules that have no sparse counterpart; all are named.
        InvalidInputError: unknown inflation or axis, or a depth below 1.

    Example:
        >>> from torch import nn
        >>> net = inflate(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
        >>> tuple(net[0].weight.shape)
        (8, 3, 3, 3, 3)
    """
    structure = inflate_structure(model, inflation=inflation, axis=axis, depth=depth)
    state, report = inflate_state(model.state_dict(), structure)
    structure.load_state_dict(state, strict=True, assign=True)
    _tie_parameters(structure, model)
    structure.report = report
    result: nn.Module = structure
    return result


def _tie_parameters(structure: nn.Module, model: nn.Module) -> None:
    """Gives the parameters of a 3D network the `requires_grad` of their 2D sources, and ties those that are tied there."""
    firsts: dict[int, nn.Parameter] = {}
    for name, source in model.named_parameters(remove_duplicate=False):
        first = firsts.setdefault(id(source), structure.get_parameter(name))
        owner, _, own_name = name.rpartition(".")
        setattr(structure.get_submodule(owner), own_name, first.requires_grad_(source.requires_grad))


def inflate_structure(model: nn.Module, inflation: str = "center", axis: str = "z", depth: int | None = None) -> Any:
    """Builds the 3D network without weights: its parameters are on the meta device.

    Args, raises: as `inflate`.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"A 2D network is inflated, such as timm.create_model('resnet50'); got {type(model).__name__}.")
    if isinstance(model, PointCloudModel):
        raise InvalidInputError(f"{type(model).__qualname__} is inflated already; inflate its 2D network.")
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    return inflate_structure_(copy.deepcopy(model, memo), inflation, axis, depth)


def inflate_structure_(model: nn.Module, inflation: str = "center", axis: str = "z", depth: int | None = None) -> Any:
    """Turns a 2D network into the 3D one without weights, in place; args, raises: as `inflate`."""
    check_inflation(inflation)
    check_axis(axis)
    check_depth(depth)
    settings = Settings(inflation=inflation, axis=axis, depth=depth)
    return make_point_cloud_model(replace_leaves(model, settings), settings)


def replace_leaves(model: nn.Module, settings: Settings) -> nn.Module:
    """Replaces, in place, every registered 2D leaf by its 3D layer; returns the root (a new module if it is a leaf itself).

    Raises:
        UnsupportedError: as `inflate`; nothing was replaced then.
    """
    built: dict[int, nn.Module] = {}
    problems, kinds = [], set()
    for name, module in model.named_modules():
        builder = find_builder(module)
        if not is_supported(module):
            owned = [n for n, _ in module.named_parameters(recurse=False)] + [n for n, _ in module.named_buffers(recurse=False)]
            kinds.add(type(module).__qualname__)
            problems.append(
                f"{name or '(the model itself)'}: {type(module).__module__}.{type(module).__qualname__} owns {owned}"
            )
        elif builder is not None:
            try:
                built[id(module)] = _build(module, builder, settings)
            except UnsupportedError as error:
                kinds.add(f"{type(module).__qualname__} with {error}")
                problems.append(f"{name or '(the model itself)'}: {type(module).__qualname__} with {error}")
    if problems:
        listed = "\n  ".join(problems)
        raise UnsupportedError(
            f"{type(model).__qualname__} has {len(problems)} modules with no sparse 3D counterpart, of "
            f"{', '.join(sorted(kinds))}:\n  {listed}\n"
            f"Supported: {', '.join(supported_types())}.\n"
            "Register a counterpart with `@i2p_zoo.replaces(type)`, or `i2p_zoo.keep(type)` where its own forward runs on "
            "sparse tensors as it is."
        )
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and id(child) in built:
                module._modules[name] = built[id(child)]
    return built.get(id(model), model)


def _build(leaf: nn.Module, builder: Any, settings: Settings) -> nn.Module:
    layer: nn.Module = builder(leaf, axis=settings.axis, depth=settings.depth, inflation=settings.inflation)
    layer.train(leaf.training)
    for name, hooks in vars(leaf).items():
        if name.startswith(("_forward", "_backward")) and "hooks" in name:
            setattr(layer, name, hooks)
    return layer


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
    inflation = structure.settings.inflation
    targets = structure.state_dict()
    problems = [f"missing {key}" for key in targets if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in targets]
    result: dict[str, Tensor] = {}
    records = []
    for key, source in state.items():
        if key not in targets:
            continue
        owner, _, name = key.rpartition(".")
        layer = structure.get_submodule(owner)
        inflated = layer.inflate_tensor(name, source.detach(), inflation) if hasattr(layer, "inflate_tensor") else None
        value = source.detach().clone() if inflated is None else inflated
        shapes = tuple(source.shape), tuple(targets[key].shape)
        if tuple(value.shape) != shapes[1]:
            problems.append(f"{key}: 2D shape {shapes[0]} does not inflate to {shapes[1]}")
            continue
        result[key] = value
        rule, reason = ("copied", "") if inflated is None else ("inflated", inflation)
        records.append(ParameterRecord(key, *shapes, rule, reason))
    if problems:
        raise CheckpointError(f"The 2D state dict does not fit the network ({len(problems)} problems): " + "; ".join(problems))
    return result, InflationReport(records)


def reinflate_(model: Any, inflation: str) -> None:
    """Gives an inflated network the kernels of another mode, in place, as if its 2D source had been inflated by that.

    Bit for bit from "center" and "copy"; "average" has divided its source, which comes back rounded.

    Args:
        model: a `PointCloudModel` whose kernels are still pure inflations.
        inflation: "center", "average" or "copy".

    Raises:
        InvalidInputError: an unknown mode, or a kernel that was trained or made anew; the network is as it was.
    """
    check_inflation(inflation)
    before = model.settings.inflation
    if inflation == before:
        return
    result: list[tuple[nn.Parameter, Tensor]] = []
    for owner, layer in model.named_modules():
        for name, tensor in layer.named_parameters(recurse=False) if hasattr(layer, "deflate_tensor") else ():
            if name != "weight":
                continue
            flat = layer.deflate_tensor(name, tensor.detach(), before)
            if flat is None:
                raise InvalidInputError(
                    f"{owner}.{name} is no pure inflation by {before!r} any more, so it cannot be inflated by {inflation!r}: "
                    "load the network that it was finetuned from."
                )
            result.append((tensor, layer.inflate_tensor(name, flat, inflation)))
    for tensor, inflated in result:
        tensor.data = inflated
    model.settings = model.settings.changed(inflation=inflation)
