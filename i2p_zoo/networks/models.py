"""create_model and list_models: timm's habits for sparse 3D networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate
from i2p_zoo.names import split_name
from i2p_zoo.networks.presets import check_preset, set_preset_
from i2p_zoo.networks.stems import adapt_in_chans_, check_in_chans, find_stem, set_point_stem_
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.point_features import CHANNELS, FEATURES


def create_model(
    name: str,
    inflation: str = "center",
    axis: str = "z",
    depth: int | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    stem: str = "image",
    skip_downsamples: int = 0,
    voxel_size: float = 0.05,
    features: str = "xyz",
    features_only: bool = False,
    preset: str | None = None,
    **kwargs: Any,
) -> Any:
    """Creates a sparse 3D network with random weights; `from_pretrained` has image weights.

    Args:
        name: a timm architecture, with or without the prefix "i2p-".
        inflation, axis, depth: as `i2p_zoo.inflate`.
        num_classes: of the classifier; 0 for none; None for the architecture's own.
        in_chans: channels of a voxel.
        stem: "image" keeps the image stem; "point" puts a new 3x3x3 convolution at stride 1 in place of the stem's
            convolution and drops its pooling (Image2Point, section 3).
        skip_downsamples: how many of the 2D network's first halvings run at stride 1. A point stem has skipped the
            stem's, which count among them.
        voxel_size: edge of a voxel for clouds given to the model, in their units.
        features: what `voxelize` gives each voxel.
        features_only: return the sparse feature maps at each stride, as timm does.
        preset: "image2point" for the paper's own ResNet-18, 50, 101 or 152: inflation "copy", a point stem without activation,
            2x2x2 shortcuts, BatchNorm on the logits; `inflation` and `stem` then need not be given.
        **kwargs: passed to `timm.create_model` (`drop_rate`, `out_indices`, ...).

    Returns:
        A `PointCloudModel` of timm's own class.

    Raises:
        NotFoundError: no such architecture.
        UnsupportedError: it has parts with no sparse counterpart; all are named.
        InvalidInputError: arguments that do not fit.

    Example:
        >>> model = create_model("test_resnet", num_classes=10, stem="point").eval()
        >>> import numpy as np
        >>> model([np.random.rand(100, 3)]).shape
        torch.Size([1, 10])
    """
    architecture, _ = split_name(name)
    check_in_chans(in_chans)
    check_preset(preset, architecture)
    if preset:
        inflation, stem = "copy", "point"
    if num_classes is not None and not features_only:
        kwargs["num_classes"] = num_classes
    if features_only:
        kwargs["features_only"] = True
    image_chans = in_chans if stem == "image" else 3
    source = create_timm_model(architecture, in_chans=image_chans, **kwargs)
    model: Any = inflate(source, inflation=inflation, axis=axis, depth=depth)
    kwargs.pop("num_classes", None)
    describe_(model, architecture, kwargs, in_chans=image_chans)
    return adapt_(model, lambda: source, None, in_chans, stem, skip_downsamples, voxel_size, features, preset)


def describe_(model: Any, architecture: str, model_args: dict[str, Any], in_chans: int) -> None:
    """Notes on a model how it was created, for its checkpoints."""
    model.architecture = architecture
    model.model_args = dict(model_args)
    model.in_chans = in_chans


def check_features(features: str | None) -> None:
    """Raises InvalidInputError for names that `voxelize` does not know."""
    if features is not None and not isinstance(features, str):
        raise InvalidInputError(f"`features` must be names joined by commas, such as 'xyz,rgb'; got {features!r}.")
    unknown = sorted({name.strip() for name in (features or "xyz").split(",")} - set(FEATURES))
    if unknown:
        raise InvalidInputError(f"`features` must be some of {', '.join(FEATURES)}; got {features!r}.")


def _check_channels(features: str, in_chans: int) -> None:
    """Raises InvalidInputError where named features are of another number of channels than a network reads."""
    names = [name.strip() for name in features.split(",")]
    if "extra" in names:
        return
    channels = sum(CHANNELS[name] for name in names)
    if channels != in_chans:
        raise InvalidInputError(
            f"The features {features!r} are {channels} channels, and the network reads {in_chans}: give in_chans={channels}."
        )


def adapt_(
    model: Any,
    source: Callable[[], nn.Module],
    num_classes: int | None,
    in_chans: int | None,
    stem: str | None,
    skip_downsamples: int | None,
    voxel_size: float | None,
    features: str | None,
    preset: str | None = None,
) -> Any:
    """Adapts an inflated network in place and returns it; None keeps what is there.

    Args:
        model: a PointCloudModel.
        source: creates its 2D network, for the stem's names; weights do not matter.
        num_classes, in_chans, stem, skip_downsamples, voxel_size, features, preset: as `create_model`.

    Raises:
        InvalidInputError: an unknown stem, a point stem turned back, or numbers out of range.
    """
    if stem not in (None, "image", "point"):
        raise InvalidInputError(f"`stem` must be 'image' or 'point'; got {stem!r}.")
    if skip_downsamples is not None and (not isinstance(skip_downsamples, int) or skip_downsamples < 0):
        raise InvalidInputError(f"`skip_downsamples` must be 0 or a positive integer; got {skip_downsamples!r}.")
    if voxel_size is not None and (not isinstance(voxel_size, int | float | np.number) or not 0 < voxel_size < float("inf")):
        raise InvalidInputError(f"`voxel_size` must be a positive number; got {voxel_size!r}.")
    check_features(features)
    wanted = model.in_chans if in_chans is None else in_chans
    check_in_chans(wanted)
    if features is not None and features != Settings.features:  # by default they are free: a SparseTensor has its own
        _check_channels(features, wanted)
    if stem == "image" and model.settings.stem == "point":
        raise InvalidInputError("The model has a point stem; its image stem is gone. Load the image network instead.")
    if stem == "point" and model.settings.stem == "image":
        set_point_stem_(model, find_stem(source()), wanted)
    elif wanted != model.in_chans:
        if model.settings.stem == "point":
            raise InvalidInputError(f"The model's point stem reads {model.in_chans} channels; got in_chans={wanted}.")
        adapt_in_chans_(model, find_stem(source()), wanted)
    if num_classes is not None and num_classes != getattr(model, "num_classes", num_classes):
        model.reset_classifier(num_classes)
    model.in_chans = wanted
    size = None if voxel_size is None else float(voxel_size)
    changes = {"skip_downsamples": skip_downsamples, "voxel_size": size, "features": features}
    model.settings = model.settings.changed(**{key: value for key, value in changes.items() if value is not None})
    if preset and not model.settings.preset:
        set_preset_(model, preset)
    return model
