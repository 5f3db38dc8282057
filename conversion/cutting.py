"""Networks too large to be certified whole: the same with two blocks a stage, from which others differ in weights alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from i2p_zoo.networks.timm_models import create_timm_model, example_images, randomize_parameters_

BLOCKS = 2
"""How many are left of like blocks in a stage: the least in which one reads what another gives, and windows shift."""

_DRAWS = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)
_TRANSFORMS = (Tensor.erfinv_, Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.clamp_)


def create_cut_model(architecture: str) -> nn.Module:
    """Creates timm's 2D network in eval mode with at most `BLOCKS` like blocks a stage, and live random parameters.

    Weights that are cut off are never drawn, so that they take no memory.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with _UndrawnWeights():
            model = create_timm_model(architecture).eval()
        cut_stages_(model)
        randomize_parameters_(model, example_images(model))
    return model


def cut_stages_(model: nn.Module) -> None:
    """Keeps, in place, the first `BLOCKS` of each kind of block in a `Sequential`, a `ModuleList` or a stage of blocks alone.

    Blocks are alike where the classes of all their parts and the shapes of all their parameters are.
    """
    for module in list(model.modules()):
        is_list = type(module) in (nn.Sequential, nn.ModuleList)
        if not is_list and not _is_stage(module):
            continue
        kept: dict[str, nn.Module] = {}
        counts: Counter[Any] = Counter()
        children = dict(module.named_children())
        for name, child in children.items():
            counts[signature := _signature(child)] += 1
            if counts[signature] <= BLOCKS or not _is_block(child):
                kept[str(len(kept)) if is_list else name] = child
        if len(kept) < len(children):
            module._modules.clear()
            module._modules.update(kept)


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is blocks of one class in a row, and nothing else."""
    children = list(module.children())
    alone = not isinstance(module, nn.ModuleDict) and not list(module.parameters(recurse=False))
    return alone and len({type(child) for child in children}) == 1 and all(_is_block(child) for child in children)


def _is_block(module: nn.Module) -> bool:
    """Whether a module has several kernels or matrices: lists of lesser ones are branches, of which a forward needs each."""
    return sum(parameter.ndim > 1 for parameter in module.parameters()) > 1


def _signature(module: nn.Module) -> tuple[Any, ...]:
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())
    return type(module), shapes, tuple(type(part) for part in module.modules())


class _UndrawnWeights(TorchFunctionMode):
    """Passes over the drawing of kernels and matrices: memory that nothing writes to is not taken."""

    def __init__(self) -> None:
        super().__init__()
        self._undrawn: dict[int, Tensor] = {}  # by address, which no other tensor gets while these are held

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in _DRAWS and tensor.ndim > 1:
            self._undrawn[tensor.data_ptr()] = tensor
            return tensor
        if func in _TRANSFORMS and tensor.data_ptr() in self._undrawn:  # of numbers that were to be drawn
            return tensor
        return func(*args, **kwargs)
