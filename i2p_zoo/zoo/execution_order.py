"""Renaming by execution order: two implementations of one network run the same layers, whatever they call them.

Both networks run once on the meta device. The n-th layer of a signature (type and geometry) in one is the n-th of that
signature in the other; a normalisation belongs to the convolution that feeds it. That the networks then compute the same
function is checked, with the weights in hand and with live random ones, since order alone does not prove it.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import CheckpointError
from i2p_zoo.zoo.measurement import copy_with, live_copy
from i2p_zoo.zoo.state_dicts import describe_misfit

TOLERANCE = 1e-5


@dataclass
class Layer:
    """A module that owns parameters and ran.

    Attributes:
        name: qualified.
        signature: type and geometry; equal in both implementations.
        producer: of a normalisation, the convolution or linear layer whose output it took as it was.
    """

    name: str
    signature: tuple[Hashable, ...]
    producer: str | None


def rename(state: dict[str, Tensor], source: nn.Module, target: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Renames and reshapes a state dict of `source`'s to the keys and shapes of `target`.

    Args:
        state: weights of `source`; loaded into it.
        source: the network that the weights are of.
        target: another implementation of the same network; loaded with the result.
        images: (B, C, H, W) that both are run on, to compare their outputs.

    Returns:
        The state dict of `target`. Tensors of layers that do not run in evaluation (auxiliary heads) are left out.

    Raises:
        CheckpointError: the weights do not fit `source`, the layers do not pair up, or the outputs differ.
    """
    load_weights_(source, state, type(source).__name__)
    names = pair_layers(run_layers(source, images), run_layers(target, images))
    result = _load_paired_(target, source, names)
    _check_outputs(source.eval(), target.eval(), images)
    twin = live_copy(source, images)  # the weights in hand may switch off the branch that is paired wrongly
    twin_target = copy_with(target, {}, torch.float32)
    _load_paired_(twin_target, twin, names)
    _check_outputs(twin, twin_target, images)
    return result


def _load_paired_(target: nn.Module, source: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Loads the tensors of a network's layers into those of another that they are paired with; returns its state dict."""
    result: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        tensors, expected = _own_tensors(source.get_submodule(theirs)), _own_tensors(target.get_submodule(ours))
        for tensor, (key, place) in zip(tensors.values(), expected.items(), strict=True):
            result[f"{ours}.{key}" if ours else key] = tensor.detach().reshape(place.shape).clone()
    if missing := sorted(target.state_dict().keys() - result.keys()):
        raise CheckpointError(f"Nothing in {type(source).__name__} runs where {type(target).__name__} has {missing}.")
    target.load_state_dict(result, strict=True)
    return result


def _check_outputs(source: nn.Module, target: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        expected, outputs = source(images), target(images)
    difference = float((expected - outputs).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"{type(source).__name__} and {type(target).__name__} pair up but compute different outputs: relative error "
            f"{difference:.1e}, expected at most {TOLERANCE:.0e}. They differ in something that is no weight."
        )


def load_weights_(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Loads a state dict into a network of this name; raises CheckpointError where it does not fit."""
    versioned: Any = OrderedDict(state)
    versioned._metadata = {"": model.state_dict()._metadata[""]}  # type: ignore[attr-defined]  # torchvision's MNASNet asks
    try:
        model.load_state_dict(versioned, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"The weights do not fit {name}: {describe_misfit(model, state, error)}.") from error


def run_layers(model: nn.Module, images: Tensor) -> list[Layer]:
    """Returns the layers of a network in the order that they finish in on the meta device."""
    memo: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    twin = copy.deepcopy(model, memo).to("meta").eval()
    layers: list[Layer] = []
    producers: dict[int, tuple[Tensor, str]] = {}  # by the id of an output, which is kept so that no id is used twice

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        signature = _signature_of(module, inputs[0])
        is_norm = signature[0] == "vectors"
        layers.append(Layer(name, signature, producers.get(id(inputs[0]), (None, None))[1] if is_norm else None))
        if not is_norm and isinstance(output, Tensor):
            producers[id(output)] = (output, name)

    for name, module in twin.named_modules():
        if _own_tensors(module):
            module.register_forward_hook(functools.partial(note, name))
    with torch.no_grad():
        twin(torch.empty_like(images, device="meta"))
    return layers


def pair_layers(source: list[Layer], target: list[Layer]) -> dict[str, str]:
    """Pairs the layers of two runs, by signature and order.

    Returns:
        The target's name of each source layer.

    Raises:
        CheckpointError: a signature has more layers in one run than in the other; all are named.
    """
    names: dict[str, str] = {}
    queues: dict[Hashable, list[str]] = defaultdict(list)
    for layer in target:
        queues[layer.signature, layer.producer].append(layer.name)
    for layer in source:
        # A producer ran before what it feeds, so it was paired, or is left over and "" feeds nothing.
        if queue := queues[layer.signature, layer.producer and names.get(layer.producer, "")]:
            names[layer.name] = queue.pop(0)
    unpaired = sorted({layer.name for layer in source} - names.keys())
    left = sorted({layer.name for layer in target} - set(names.values()))
    if unpaired or left:
        raise CheckpointError(f"The layers do not pair up: {unpaired} of the source, {left} of the target are left over.")
    return names


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers that a module itself owns; names of its children's have a dot."""
    return {key: tensor for key, tensor in module.state_dict().items() if "." not in key}


def _signature_of(module: nn.Module, inputs: Tensor) -> tuple[Hashable, ...]:
    """A linear layer and a convolution over the whole of its input have one signature."""
    if isinstance(module, nn.Conv2d):
        if module.kernel_size == tuple(inputs.shape[-2:]) and module.padding in ((0, 0), "valid") and module.groups == 1:
            return ("linear", module.out_channels, module.weight[0].numel())
        return ("convolution", tuple(module.weight.shape), module.stride, module.groups)
    if isinstance(module, nn.Linear):
        return ("linear", module.out_features, module.in_features)
    return ("vectors", tuple(t.numel() for t in _own_tensors(module).values()))
