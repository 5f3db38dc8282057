"""The structure of an inflated network: a 2D network whose leaves are sparse 3D layers, its weights on the meta device."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.inflation.provenance import Provenance
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.registry import find_builder, is_supported, supported_types
from i2p_zoo.modules import image_channels
from i2p_zoo.wording import count_of, join_words

_FUSIONS = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods that `timm.utils.reparameterize_model` calls."""


def inflate_structure(model: nn.Module, settings: Settings) -> Any:
    """Builds the 3D network without weights.

    Args:
        model: the 2D network; untouched.
        settings: of the inflation.

    Returns:
        A module of the model's class with a `provenance`; its parameters are on the meta device.

    Raises:
        UnsupportedError, InvalidInputError: as `i2p_zoo.inflate`.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(
            f"`model` must be a 2D network, such as timm.create_model('resnet50'); got {type(model).__name__}."
        )
    if isinstance(getattr(model, "provenance", None), Provenance):
        raise InvalidInputError(f"{type(model).__qualname__} is inflated already; inflate its 2D network.")
    reserved = {"provenance", *(part.name for part in fields(Provenance))}
    if clashes := sorted(reserved & {*model._modules, *model._parameters, *model._buffers}):
        raise InvalidInputError(
            f"{type(model).__qualname__} has modules or tensors named {clashes}, which are attributes of an inflated network. "
            "Rename them."
        )
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    return inflate_structure_(copy.deepcopy(model, memo), settings)


def inflate_structure_(model: nn.Module, settings: Settings) -> Any:
    """Turns a 2D network into the 3D one without weights, in place; returns, raises: as `inflate_structure`."""
    architecture = getattr(model, "architecture", None) or (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    channels = image_channels(model)
    structure: Any = replace_leaves(model, settings)
    for module in structure.modules():
        module.__dict__.update({name: refuse_fusion for name in _FUSIONS if hasattr(type(module), name)})
    structure.provenance = Provenance(settings, architecture, in_chans=channels)
    return structure


def refuse_fusion(*_: Any, **__: Any) -> Any:
    """Raises UnsupportedError for timm's fusing of branches, which is written for 2D kernels."""
    raise UnsupportedError(
        "A 3D network's branches cannot be fused: call `timm.utils.reparameterize_model` on the 2D network, then `inflate` it."
    )


def replace_leaves(model: nn.Module, settings: Settings) -> nn.Module:
    """Replaces, in place, every registered 2D leaf by its 3D layer; returns the root (a new module if it is a leaf itself).

    Raises:
        UnsupportedError: as `inflate`; nothing was replaced then.
    """
    built: dict[int, nn.Module] = {}
    problems, unsupported = [], set()
    for name, module in model.named_modules():
        builder, place, leaf = find_builder(module), name or "(the model itself)", type(module).__qualname__
        if not is_supported(module):
            owned = [n for n, _ in module.named_parameters(recurse=False)] + [n for n, _ in module.named_buffers(recurse=False)]
            unsupported.add(leaf)
            problems.append(f"{place}: {type(module).__module__}.{leaf} owns {join_words(owned)}")
        elif builder is not None:
            try:
                built[id(module)] = _build(module, builder, settings)
            except UnsupportedError as error:
                unsupported.add(f"{leaf} with {error}")
                problems.append(f"{place}: {leaf} with {error}")
    if problems:
        listed = "\n  ".join(problems)
        raise UnsupportedError(
            f"{type(model).__qualname__} has {count_of(len(problems), 'module')} with no sparse 3D counterpart, of "
            f"{', '.join(sorted(unsupported))}:\n  {listed}\n"
            f"Supported: {', '.join(supported_types())}.\n"
            "Register a counterpart with `@i2p_zoo.replaces(type)`, or `i2p_zoo.keep(type)` where its own forward runs on "
            "sparse tensors as it is."
        )
    for module in [*model.modules(), *built.values()]:
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


def materialize_(model: nn.Module) -> None:
    """Gives sparse convolutions that are still on the meta device new initial weights where the rest of the model is."""
    devices = {p.device for p in model.parameters() if p.device.type != "meta"}
    for module in model.modules():
        if isinstance(module, SparseConv3d) and module.weight.device.type == "meta" and devices:
            module.to_empty(device=next(iter(devices)))
            module.reset_parameters()
