"""What a user changed of a network and a config can tell: another head, frozen batch normalisation, numbers of modules."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops.misc import FrozenBatchNorm2d

from i2p_zoo.checkpoints.rebuilding import find_changed_modules, is_linear, numbers_of
from i2p_zoo.errors import InvalidInputError

_LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps", "momentum", "affine", "track_running_stats")),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
    "Flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "LeakyReLU": (nn.LeakyReLU, ("negative_slope", "inplace")),
    "ELU": (nn.ELU, ("alpha", "inplace")),
    "GELU": (nn.GELU, ("approximate",)),
    **{layer.__name__: (layer, ()) for layer in (nn.Identity, nn.Tanh, nn.Sigmoid)},
    **{layer.__name__: (layer, ("p", "inplace")) for layer in (nn.Dropout, nn.AlphaDropout)},
    **{layer.__name__: (layer, ("inplace",)) for layer in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Mish, nn.Hardswish)},
    **{layer.__name__: (layer, ("dim",)) for layer in (nn.Softmax, nn.LogSoftmax)},
}
"""Layers that a head may be made of, and the attributes that are their arguments."""
_MAX_LAYERS = 100
_FROZEN = (FrozenBatchNorm2d, FrozenBatchNormAct2d)


def note_changes(model: Any, config: dict[str, Any], head: str | None) -> dict[str, Any]:
    """Notes in a config what was changed of the network that it describes, as far as it can be told; returns the config.

    A linear layer of any width in the place of the classifier is told by the number of classes. Whatever else there is goes
    into `i2p.changes`: `head`, the layers of a new head; `frozen`, the names of batch normalisation that timm froze; `numbers`,
    those of a module's attributes that are not as they were made, such as the rate of a dropout.

    Args:
        model: the network.
        config: of it, as it was made; in place.
        head: qualified name of its classifier, or None.
    """
    layer = None if head is None else model.get_submodule(head)
    if type(layer) is nn.Identity or is_linear(layer):
        _set_classes(config, getattr(layer, "out_features", 0))
    structure = type(model).from_config(config)
    changes: dict[str, Any] = {}
    if layer is not None and find_changed_modules(layer, _submodule(structure, head) or nn.Module()):
        layers = _describe_layers(layer)
        if layers is not None:
            changes["head"] = {"name": head, "layers": layers}
            widths = [module.out_features for module in layer.modules() if isinstance(module, nn.Linear)]
            _set_classes(config, widths[-1] if widths else 0)
            apply_changes_(structure, changes)
    frozen = [name for name, module in model.named_modules() if isinstance(module, _FROZEN)]
    frozen = [name for name in frozen if isinstance(_submodule(structure, name), _BatchNorm)]
    if frozen:
        changes["frozen"] = frozen
        apply_changes_(structure, {"frozen": frozen})
    made = {name: numbers_of(module) for name, module in structure.named_modules()}
    numbers: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        present = numbers_of(module)
        changed = {key: present[key] for key, number in made.get(name, {}).items() if present.get(key, number) != number}
        if changed:
            numbers[name] = changed
    if numbers:
        changes["numbers"] = numbers
    if changes:
        config["i2p"]["changes"] = changes
    return config


def apply_changes_(model: Any, changes: dict[str, Any]) -> Any:
    """Changes a network as `note_changes` notes it, in place, its new layers on the meta device; returns the network.

    Raises:
        InvalidInputError: something that is never noted.
    """
    if unknown := sorted(changes.keys() - {"head", "frozen", "numbers"}):
        raise InvalidInputError(f"`changes` has unknown keys {unknown}.")
    with torch.device("meta"):
        if head := changes.get("head"):
            model.set_submodule(head["name"], _build_layers(head["layers"], [_MAX_LAYERS]), strict=True)
        for name in changes.get("frozen", ()):
            norm = model.get_submodule(name)
            if not isinstance(norm, _BatchNorm):
                raise InvalidInputError(f"`changes` freezes {name!r}, which is no batch normalisation.")
            model.set_submodule(name, freeze_batch_norm_2d(norm.to("meta")), strict=True)
    for name, numbers in changes.get("numbers", {}).items():
        module = model.get_submodule(name)
        made = numbers_of(module)
        for key, number in numbers.items():
            if not isinstance(number, int | float) or key not in made:
                raise InvalidInputError(f"`changes` sets {key!r} of {name!r} to {number!r}, which is no number that it has.")
            setattr(module, key, number)
    return model


def has_only_another_head(config: dict[str, Any]) -> bool:
    """Whether nothing but its head was changed of a network, by its config."""
    return not config["i2p"].get("changes", {}).keys() - {"head"}


def _set_classes(config: dict[str, Any], classes: int) -> None:
    """Sets the number of classes; the names of another number of classes are no longer theirs."""
    names = config["pretrained_cfg"].get("label_names")
    if config["num_classes"] != classes and names and len(names) != classes:
        del config["pretrained_cfg"]["label_names"]
    config["num_classes"] = classes


def _submodule(model: nn.Module, name: str | None) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def _describe_layers(layer: nn.Module) -> dict[str, Any] | None:
    """Describes layers as JSON types, or None where one of them is not in the table, or has more than its arguments say."""
    if type(layer) is nn.Sequential:
        parts = {name: _describe_layers(part) for name, part in layer.named_children()}
        return None if None in parts.values() else {"type": "Sequential", "layers": parts}
    name = "Linear" if is_linear(layer) else "BatchNorm1d" if type(layer) is nn.SyncBatchNorm else type(layer).__name__
    _, arguments = _LAYERS.get(name, (None, None))
    if arguments is None or not all(hasattr(layer, key) for key in arguments):
        return None
    values = {key: getattr(layer, key) for key in arguments}
    values = {key: value is not None if key == "bias" else value for key, value in values.items()}
    described = {"type": name, **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}}
    return None if find_changed_modules(layer, _build_layers(described, [1])) else described


def _build_layers(described: dict[str, Any], left: list[int]) -> nn.Module:
    """Builds layers; `left` counts down those that may still come."""
    left[0] -= 1
    name, arguments = described["type"], {key: value for key, value in described.items() if key != "type"}
    if left[0] < 0 or name not in ("Sequential", *_LAYERS):
        raise InvalidInputError(f"A head of {name!r}, or of more than {_MAX_LAYERS} layers, is none that is saved.")
    if name == "Sequential":
        layers = nn.Sequential()
        for key, part in arguments["layers"].items():
            layers.add_module(key, _build_layers(part, left))
        return layers
    layer, expected = _LAYERS[name]
    if set(arguments) != set(expected):
        raise InvalidInputError(f"A {name} has the arguments {sorted(expected)}; got {sorted(arguments)}.")
    with torch.device("meta"):
        return layer(**arguments)
