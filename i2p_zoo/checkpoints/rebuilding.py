"""Whether a config alone rebuilds a network: two networks compared module by module, and the ways out where it does not."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.linear import Linear as TimmLinear
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.batch_norm_act import SparseBatchNormAct2d
from i2p_zoo.layers.normalization import LogitNorm
from i2p_zoo.modules import head_name
from i2p_zoo.wording import format_arguments

_SAME: dict[type[nn.Module], type[nn.Module]] = {
    TimmLinear: nn.Linear,
    **dict.fromkeys((nn.SyncBatchNorm, nn.BatchNorm1d, LogitNorm), nn.BatchNorm2d),
    **dict.fromkeys((SyncBatchNormAct, SparseBatchNormAct2d), BatchNormAct2d),
}
"""Types that compute the same: in a network of one process, on voxels or on logits."""
_NO_FUNCTION = {"training", "frozen_norms", "grad_checkpointing", "num_classes", "in_chans"}
"""Attributes that say nothing of what a network computes, or that its config says in another place."""


def check_rebuilds(model: Any, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raises InvalidInputError, with a way out, unless the config alone rebuilds the network's structure.

    Args:
        model: a network.
        config: as its `to_config` returns it.
        state: its tensors.
    """
    dtype = getattr(torch, config["i2p"]["dtype"])
    mixed = [key for key, t in state.items() if t.is_floating_point() and t.dtype != dtype]
    if mixed:
        raise InvalidInputError(f"All tensors must have one dtype; the first parameter has {dtype}, {mixed[0]} another.")
    structure = type(model).from_config(config)
    if differences := find_changed_modules(model, structure):
        arguments = ", ".join(filter(None, [repr(model.architecture), format_arguments(model.model_args)]))
        raise InvalidInputError(
            f"`timm.create_model({arguments})` does not rebuild this network: "
            f"{next(iter(differences.values()))}. {_find_way_out(model, differences)}"
        )


def find_changed_modules(model: nn.Module, other: nn.Module) -> dict[str, str]:
    """Returns in words, by name, the modules that two networks do not have alike."""
    modules, others = dict(model.named_modules()), dict(other.named_modules())
    differences = {}
    for name in dict.fromkeys([*modules, *others]):
        parts = modules.get(name), others.get(name)
        if _kind_of(parts[0]) != _kind_of(parts[1]):
            differences[name] = f"{name or 'it'} is {_describe(parts[0])}, not {_describe(parts[1])}"
    return differences


def is_linear(module: nn.Module | None) -> bool:
    """Whether a module is torch's linear layer, or timm's, which computes the same."""
    return type(module) in (nn.Linear, TimmLinear)


def numbers_of(module: nn.Module) -> dict[str, Any]:
    """Returns those of a module's public attributes that are numbers, by name, but for what says nothing of its function."""
    numbers = {key: value for key, value in vars(module).items() if type(value) in (bool, int, float)}
    return {key: value for key, value in numbers.items() if not key.startswith("_") and key not in _NO_FUNCTION}


def _kind_of(module: nn.Module | None) -> Any:
    """What two modules have alike that compute the same function of their tensors, their parts aside."""
    if module is None:
        return None
    return _SAME.get(type(module), type(module)), module.extra_repr(), numbers_of(module), _shapes_of(module)


def _shapes_of(module: nn.Module) -> dict[str, Any]:
    """The shapes of the tensors in a state dict that are a module's own, and the types of what else is its own there."""
    owned = {key: value for key, value in module.state_dict().items() if "." not in key}
    return {key: tuple(value.shape) if isinstance(value, Tensor) else type(value) for key, value in owned.items()}


def _describe(module: nn.Module | None) -> str:
    if module is None:
        return "nothing"
    shapes = ", ".join(f"{key} {shape}" for key, shape in _shapes_of(module).items())
    text = f"{type(module).__name__}({module.extra_repr()})"
    return f"{text} with {shapes}" if shapes else text


def _find_way_out(model: Any, differences: dict[str, str]) -> str:
    """Says how a network is saved that its config does not rebuild, by the modules that differ."""
    if any("is SyncBatchNorm(" in text and "not SparseBatchNormAct2d(" in text for text in differences.values()):
        return "torch's `convert_sync_batchnorm` dropped its activation: convert by `timm.layers.convert_sync_batchnorm`."
    for name, module in model.named_modules():
        place = f"model.get_submodule({name!r})"
        if parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            return f"Make it plain: `torch.nn.utils.parametrize.remove_parametrizations({place}, {tensor!r})`."
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                return f"Make it plain: `torch.nn.utils.prune.remove({place}, {hook._tensor_name!r})`."
            if isinstance(hook, SpectralNorm | WeightNorm):
                norm = "spectral" if isinstance(hook, SpectralNorm) else "weight"
                return f"Make it plain: `torch.nn.utils.remove_{norm}_norm({place}, {hook.name!r})`."
    head = head_name(model) if hasattr(model, "reset_classifier") else None
    if head and all(f"{name}.".startswith(f"{head}.") for name in differences):
        return (
            f"Save the head by itself, `torch.save(model.{head}.state_dict(), file)`, and the network without it: "
            "`model.reset_classifier(0)`, then `save_pretrained`; put your head back where it is loaded."
        )
    return (
        "Give such arguments to `i2p_zoo.create_model`, which notes them; what is no argument of timm's is saved by "
        "`torch.save(model.state_dict(), file)` and loaded into a network that is changed in the same way."
    )
