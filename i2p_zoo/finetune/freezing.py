"""Which layers train: Image2Point's modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.choices import MODES
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.normalization import NORMS
from i2p_zoo.layers.position_parameters import find_position_parameters
from i2p_zoo.modules import find_classifier, probe_mode, view_modules
from i2p_zoo.sparse.tensor import SparseTensor


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters after `freeze`."""

    trained: int
    total: int


def freeze(model: Any, mode: str) -> ParameterCount:
    """Sets which parameters train, and keeps normalisation in eval mode where it does not.

    `model.requires_grad_(True)` undoes it; normalisation then trains from the next `model.train()` on.

    Args:
        model: a `PointCloudModel`, in place. Call it before the optimizer is made.
        mode: "all"; "io", the convolutions that read the input, a transformer's position tables, relative biases, class and
            register tokens, and the classifier, normalisation on the image's statistics; "io+stats", the same on the clouds'
            statistics; "io+bn", these and every normalisation layer, affine and statistics; "head", the classifier alone, a
            linear probe; "none". (Image2Point, section 3: FIP-ALL, FIP-IO, FIP-IO+BN.) Views of a pyramid classifier train in
            mode "all" alone.

    Returns:
        How many parameters train, of how many.

    Raises:
        InvalidInputError: an unknown mode, or a model without a classifier for any but "all" and "none".

    Example:
        >>> import i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=10, stem="point")
        >>> freeze(model, "io+bn").trained
        4346
    """
    if mode not in MODES:
        raise InvalidInputError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r}.")
    trained: list[nn.Module | nn.Parameter] = [model] if mode == "all" else []
    if mode == "head":
        trained = [find_classifier(model)]
    if mode not in ("all", "head", "none"):
        trained += find_io(model)
    if mode == "io+bn":
        drawn = view_modules(model)
        trained += [module for module in model.modules() if isinstance(module, NORMS) and module not in drawn]
    model.requires_grad_(False)
    for part in trained:
        part.requires_grad_(True)
    model.frozen_norms = mode in ("io", "head", "none")
    model.train(model.training)
    return count_parameters(model)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Counts a network's parameters, and those of them that train."""
    parameters = list(model.parameters())
    return ParameterCount(sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters))


def find_io(model: Any) -> list[nn.Module | nn.Parameter]:
    """Returns what mode "io" trains: the classifier, the convolutions that read the input, and tables of positions.

    Raises:
        InvalidInputError: there is no classifier, or no such convolution.
    """
    tables = [model.get_parameter(name) for name in find_position_parameters(model)]
    return [find_classifier(model), *find_input_layers(model), *tables]


def find_input_layers(model: Any) -> list[nn.Module]:
    """Returns the convolutions that read a network's input, found by running it on one voxel.

    Raises:
        InvalidInputError: there is none.
    """
    convolutions = [module for module in model.modules() if isinstance(module, SparseConv3d)]
    readers: list[nn.Module] = []
    for channels in dict.fromkeys(module.in_channels for module in convolutions):  # not every one is the input's
        weight = convolutions[0].weight
        features = weight.new_zeros(1, channels)

        def hook(module: nn.Module, inputs: Any, features: Tensor = features) -> None:
            if getattr(inputs[0], "features", None) is features:
                readers.append(module)

        try:
            with probe_mode(model), torch.no_grad():
                for module in convolutions:
                    module.register_forward_pre_hook(hook)
                model(SparseTensor(features, torch.zeros(1, 4, dtype=torch.int32, device=weight.device)))
            break
        except InvalidInputError:
            readers.clear()
    if not readers:
        raise InvalidInputError(f"No convolution of {type(model).__qualname__} reads the input itself.")
    return list(dict.fromkeys(readers))
