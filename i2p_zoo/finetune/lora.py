"""LoRA by PEFT on sparse convolutions too, whose weights PEFT does not know."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune.freezing import ParameterCount, count_parameters, find_io, freeze
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.modules import find_classifier, view_modules


def lora_config(model: nn.Module, r: int = 8, **options: Any) -> Any:
    """Returns PEFT's `LoraConfig` for a network: low-rank changes of its convolutions and linear layers, and its classifier.

    A convolution's weight (out, kz, ky, kx, in) is taken for a matrix of `out` rows, so that its change has
    r x (out + kz x ky x kx x in) parameters (Hu et al. 2021, "LoRA: low-rank adaptation of large language models"). The changed
    weight is what convolves: layers keep their kinds, and merging is exact to the last rounding. Taps that inflation "center"
    left empty become live.

    Args:
        model: a network with a classifier; left as it is. `peft.get_peft_model(model, config)` changes it.
        r: the rank.
        **options: of PEFT's `LoraConfig`, such as `lora_alpha`; `target_modules` and `modules_to_save` in place of all
            convolutions and linear layers, and the classifier.

    Raises:
        InvalidInputError: a network without a classifier or without layers to change, or a variant of LoRA that PEFT has for
            its own layers alone (`lora_dropout`, `use_dora`, `lora_bias`).
        MissingExtraError: PEFT is not installed.

    Example:
        >>> import i2p_zoo
        >>> from peft import get_peft_model
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=10, stem="point", inflation="average")
        >>> lora = get_peft_model(model, lora_config(model, r=4))
        >>> lora.get_nb_trainable_parameters()
        (62222, 1095688)
    """
    peft = require("peft", extra="lora")
    head, modules = find_classifier(model), dict(model.named_modules())
    parts = {head} if head in modules.values() else set(head.children())  # several are no module of the network together
    saved = [name for name, module in modules.items() if module in parts]
    drawn = view_modules(model)
    targets = [
        name for name, module in modules.items() if _can_change(module) and not _is_within(name, saved) and module not in drawn
    ]
    if not options.get("target_modules", targets):
        raise InvalidInputError(f"{type(model).__qualname__} has no convolution or linear layer that LoRA can change.")
    config = peft.LoraConfig(r=r, **{"target_modules": targets, "modules_to_save": saved, **options})
    if config.lora_dropout or config.use_dora or config.lora_bias:
        raise InvalidInputError("Sparse convolutions have plain LoRA: expected no `lora_dropout`, `use_dora` or `lora_bias`.")
    config._register_custom_module({SparseConv3d: _layer_class()})
    return config


def add_lora_(model: Any, rank: int = 8) -> ParameterCount:
    """Adds LoRA's low-rank changes to a network, and sets that they train, with all that mode "io+stats" of `freeze` trains.

    A new stem, the classifier and tables of positions train as they are, normalisation takes the clouds' statistics, and every
    other convolution and linear layer, but for those of views, has a change, nothing at first, as `lora_config` describes it.
    `merge_lora_` makes it the network that it was, with other weights; until then it cannot be saved.

    Args:
        model: a `PointCloudModel`, or another network that `freeze` takes, in place. Call it before the optimizer is made.
        rank: of each change.

    Returns:
        How many parameters train, of how many, those of the changes among them.

    Raises:
        InvalidInputError: a rank below 1, a network that has changes already, or as `lora_config` and `freeze`.
        MissingExtraError: PEFT is not installed.

    Example:
        >>> import i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=10, stem="point", inflation="average")
        >>> add_lora_(model, rank=4).trained
        63130
        >>> merge_lora_(model)
    """
    peft = require("peft", extra="lora")
    if rank < 1:
        raise InvalidInputError(f"`rank` (={rank}) must be at least 1.")
    if _list_changes(model):
        raise InvalidInputError(f"This {type(model).__qualname__} has changes by LoRA already: `merge_lora_` it first.")
    whole = {parameter for part in find_io(model) for parameter in _list_parameters(part)}
    drawn = view_modules(model)
    targets = [
        name
        for name, module in model.named_modules()
        if _can_change(module) and module.weight not in whole and module not in drawn
    ]
    peft.inject_adapter_in_model(lora_config(model, rank, target_modules=targets, modules_to_save=None), model)
    freeze(model, "io+stats")
    for layer in _list_changes(model).values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    return count_parameters(model)


def merge_lora_(model: Any) -> None:
    """Makes what `add_lora_` changed part of the weights, in place: the network has its own layers again.

    Raises:
        InvalidInputError: there are no changes by LoRA.
        MissingExtraError: PEFT is not installed.
    """
    changes = _list_changes(model)
    if not changes:
        raise InvalidInputError(f"This {type(model).__qualname__} has no changes by LoRA; `add_lora_` adds them.")
    for name, layer in changes.items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def _list_changes(model: nn.Module) -> dict[str, Any]:
    """The layers that have changes by LoRA, by name."""
    layers = require("peft.tuners.lora", extra="lora")
    return {name: module for name, module in model.named_modules() if isinstance(module, layers.LoraLayer)}


def _list_parameters(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


def _can_change(module: nn.Module) -> bool:
    """Whether a layer's weight is one matrix; a mixture of several is none."""
    return type(module) is nn.Linear or (isinstance(module, SparseConv3d) and module.weight.ndim == 5)


def _is_within(name: str, parents: list[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@functools.cache
def _layer_class() -> type[nn.Module]:
    """Returns the class of changed convolutions, which derives from one of PEFT's."""
    layers = require("peft.tuners.lora", extra="lora")

    class LoraConv3d(nn.Module, layers.LoraLayer):  # type: ignore[name-defined]
        """A sparse convolution whose weight has low-rank changes, as PEFT asks of a layer."""

        def __init__(self: Any, base_layer: Any, adapter_name: str, r: int, lora_alpha: int, config: Any, **_: Any) -> None:
            nn.Module.__init__(self)
            layers.LoraLayer.__init__(self, base_layer)
            self._active_adapter = adapter_name
            self.update_layer(adapter_name, r, lora_alpha, config)

        def _get_in_out_features(self: Any, module: Any) -> tuple[int, int]:
            return module.in_channels, module.out_channels

        def update_layer(self: Any, adapter_name: str, r: int, lora_alpha: int, config: Any, **_: Any) -> None:
            """Adds a change, zero at first."""
            weight = self.get_base_layer().weight
            self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha
            self.scaling[adapter_name] = lora_alpha / (math.sqrt(r) if config.use_rslora else r)
            self.lora_A[adapter_name] = nn.Linear(weight[0].numel(), r, bias=False, device=weight.device, dtype=weight.dtype)
            self.lora_B[adapter_name] = nn.Linear(r, len(weight), bias=False, device=weight.device, dtype=weight.dtype)
            if config.init_lora_weights:
                nn.init.zeros_(self.lora_B[adapter_name].weight)
            self.set_adapter(self.active_adapters)

        def get_delta_weight(self: Any, adapter: str) -> Tensor:
            """Returns a change, in the weight's shape."""
            product = self.lora_B[adapter].weight @ self.lora_A[adapter].weight
            delta: Tensor = (product * self.scaling[adapter]).view_as(self.get_base_layer().weight)
            return delta

        def merge(self: Any, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            """Adds changes to the weight itself; with `safe_merge` raises InvalidInputError where it is not finite then."""
            weight = self.get_base_layer().weight
            names = self.active_adapters if adapter_names is None else adapter_names
            for name in (name for name in names if name in self.lora_A and name not in self.merged_adapters):
                merged = weight.data + self.get_delta_weight(name).detach()
                if safe_merge and not merged.isfinite().all():
                    raise InvalidInputError(f"The merged weight of adapter {name!r} is not finite.")
                weight.data = merged
                self.merged_adapters.append(name)

        def unmerge(self: Any) -> None:
            """Takes merged changes off again."""
            while self.merged_adapters:
                self.get_base_layer().weight.data -= self.get_delta_weight(self.merged_adapters.pop()).detach()

        def forward(self: Any, x: Any) -> Any:
            """Convolves with the changed weight."""
            base = self.get_base_layer()
            if self.disable_adapters:
                if self.merged:
                    self.unmerge()
                return base(x)
            live = [name for name in self.active_adapters if name in self.lora_A and name not in self.merged_adapters]
            if not live:
                return base(x)
            weight = base.weight + sum(self.get_delta_weight(name) for name in live)
            return torch.func.functional_call(base, {"weight": weight}, (x,))

    return LoraConv3d
