"""The paper's own networks: timm's ResNets with Image2Point's stems, shortcuts and head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from i2p_zoo.choices import PRESETS
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.layers.normalization import NormalizedLinear

ARCHITECTURES = ("resnet18", "resnet50", "resnet101", "resnet152")
"""Those of the paper that timm has too; its "R34" is no ResNet-34."""


def check_preset(preset: str | None, architecture: str) -> None:
    """Raises InvalidInputError for an unknown preset, UnsupportedError for an architecture that it does not have."""
    if preset and preset not in PRESETS:
        raise InvalidInputError(f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}.")
    if preset and architecture not in ARCHITECTURES:
        raise UnsupportedError(f"preset={preset!r} is only for {', '.join(ARCHITECTURES)}; got {architecture!r}.")


def set_preset_(model: Any, preset: str) -> None:
    """Makes the paper's network of an inflated ResNet with a point stem, in place.

    Each stage's 1x1 shortcut becomes a 2x2x2 one whose taps repeat its weight, undivided. A classifier has no activation
    behind the stem and BatchNorm on the logits; its stages run at strides 1, 2, 4 and 8. A feature extractor, for a U-Net, has
    a stem of two 3x3x3 convolutions and a 2x2x2 one of stride 2, each with BatchNorm and ReLU; its stages run at strides 2, 4,
    8 and 16. (Image2Point, section 3, and its published code.)

    Args:
        model: inflated by "copy", with a point stem.
        preset: "image2point".

    Raises:
        InvalidInputError: an unknown preset, another inflation or an image stem.
        UnsupportedError: an architecture that the paper does not have.
    """
    provenance = model.provenance
    check_preset(preset, provenance.architecture)
    if provenance.settings.inflation != "copy" or provenance.settings.stem != "point":
        raise InvalidInputError(
            f"preset={preset!r} needs inflation='copy' and stem='point'; got inflation={provenance.settings.inflation!r} and "
            f"stem={provenance.settings.stem!r}."
        )
    is_extractor = bool(provenance.model_args.get("features_only"))
    if is_extractor:
        _set_scene_stem_(model)
    else:
        model.act1 = nn.Identity()
    for name, module in list(model.named_modules()):
        if name.endswith("downsample.0"):
            model.get_submodule(name.rpartition(".")[0])[0] = _make_shortcut(module)
            model.provenance = model.provenance.with_replaced(f"{name}.", "shortcut of 2x2x2 copies", model.get_submodule(name))
    model.provenance = model.provenance.with_settings(preset=preset)
    if not is_extractor:
        normalize_classifier_(model)


def new_stem_layers(model: Any) -> list[nn.Module]:
    """Returns the layers of a preset's feature extractor, behind the first convolution, that have no image weights."""
    return [model.act1, model.maxpool] if model.provenance.settings.preset else []


def _set_scene_stem_(model: Any) -> None:
    first = model.conv1
    placement: dict[str, Any] = {"device": first.weight.device, "dtype": first.weight.dtype}
    width = first.out_channels
    strided = SparseConv3d(width, width, 2, 2, ((0, 0), (0, 0)), bias=False, axis=first.axis, **placement)
    inner = SparseConv3d(width, width, 3, bias=False, axis=first.axis, **placement)
    for name, convolution in (("act1", inner), ("maxpool", strided)):
        layers = [convolution, nn.BatchNorm2d(width, **placement), nn.ReLU(inplace=True)]
        new = nn.Sequential(*([nn.ReLU(inplace=True)] if name == "act1" else []), *layers).train(model.training)
        setattr(model, name, new)
        model.provenance = model.provenance.with_replaced(f"{name}.", "Image2Point's stem for scenes", new)


def normalize_classifier_(model: Any) -> None:
    """Puts BatchNorm on the logits of a classifier that has none, in place, and keeps its weights."""
    old = model.get_classifier()
    if not isinstance(old, nn.Linear) or isinstance(old, NormalizedLinear):
        return
    new = NormalizedLinear(old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
    new.weight, new.bias = old.weight, old.bias
    new.train(old.training)
    model.fc = new
    model.provenance = model.provenance.with_replaced("fc.norm.", "BatchNorm on the logits", new.norm)


def _make_shortcut(old: SparseConv3d) -> SparseConv3d:
    with torch.device("meta"):
        new = SparseConv3d(old.in_channels, old.out_channels, 2, old.stride, ((0, 0), (0, 0)), bias=False, axis=old.axis)
    new.weight = nn.Parameter(old.weight.detach().expand(-1, 2, 2, 2, -1).contiguous())
    return new.train(old.training)
