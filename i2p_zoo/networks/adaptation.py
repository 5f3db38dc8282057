"""Adapting an inflated network to clouds: classes, channels, stem, strides, and how clouds are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.networks.presets import set_preset_
from i2p_zoo.networks.stems import adapt_in_chans_, check_in_chans, find_stem, set_point_stem_
from i2p_zoo.sparse.point_features import count_channels, parse_features


@dataclass(frozen=True)
class Adaptation:
    """What is to be changed of an inflated network, as `i2p_zoo.create_model` takes it; None keeps what is there."""

    num_classes: int | None = None
    in_chans: int | None = None
    stem: str | None = None
    skip_downsamples: int | None = None
    voxel_size: float | None = None
    features: str | None = None
    preset: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return all(value is None for value in vars(self).values())


def adapt_(model: Any, adaptation: Adaptation, source: Callable[[], nn.Module]) -> Any:
    """Adapts an inflated network in place and returns it.

    Args:
        model: a `PointCloudModel`.
        adaptation: what is to be changed.
        source: creates its 2D network, for the stem's names; weights do not matter.

    Raises:
        InvalidInputError: an unknown stem, a point stem turned back, features of other channels than the network reads, or
            numbers out of range; the network is as it was.
    """
    provenance = model.provenance
    changes = {name: getattr(adaptation, name) for name in ("stem", "skip_downsamples", "voxel_size", "features")}
    settings = provenance.settings.changed(**{name: value for name, value in changes.items() if value is not None})
    in_chans = provenance.in_chans if adaptation.in_chans is None else adaptation.in_chans
    check_in_chans(in_chans)
    if adaptation.features not in (None, Settings.features):  # the default is free: a SparseTensor has its own features
        _check_channels(settings.features, in_chans)
    is_pointed = provenance.settings.stem == "point"
    if adaptation.stem == "image" and is_pointed:
        raise InvalidInputError("The model has a point stem; its image stem is gone. Load the image network instead.")
    if adaptation.stem == "point" and not is_pointed:
        set_point_stem_(model, find_stem(source()), in_chans)
    elif in_chans != provenance.in_chans:
        if is_pointed:
            raise InvalidInputError(f"The model's point stem reads {provenance.in_chans} channels; got in_chans={in_chans}.")
        adapt_in_chans_(model, find_stem(source()), in_chans)
    num_classes = adaptation.num_classes
    if num_classes is not None and num_classes != getattr(model, "num_classes", num_classes):
        model.reset_classifier(num_classes)
    model.settings = settings.changed(stem=model.settings.stem)  # which is set with its layers
    if adaptation.preset and not settings.preset:
        set_preset_(model, adaptation.preset)
    return model


def _check_channels(features: str, in_chans: int) -> None:
    """Raises InvalidInputError where named features are of another number of channels than a network reads."""
    names = parse_features(features)
    channels = count_channels(names)
    if "extra" not in names and channels != in_chans:
        raise InvalidInputError(
            f"The features {features!r} are {channels} channels, and the network reads {in_chans}: give in_chans={channels}."
        )
