"""create_model, feature extractors, and adapting a network to clouds: classes, channels, stem, strides, how clouds are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from i2p_zoo.checkpoints.loading import find_base_tensors
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.names import split_name
from i2p_zoo.networks.point_cloud_model import inflate
from i2p_zoo.networks.presets import check_preset, set_preset_
from i2p_zoo.networks.stems import adapt_in_chans_, check_in_chans, find_stem, image_colors, set_point_stem_
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.point_features import count_channels, parse_features
from i2p_zoo.wording import count_of


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
    classes: dict[str, Any] = {} if num_classes is None or features_only else {"num_classes": num_classes}
    if features_only:
        kwargs["features_only"] = True
    image_chans = in_chans if stem == "image" else 3
    source = create_timm_model(architecture, in_chans=image_chans, **kwargs, **classes)
    model: Any = inflate(source, inflation=inflation, axis=axis, depth=depth)
    model.provenance = model.provenance.changed(architecture=architecture, model_args=kwargs, in_chans=image_chans)
    adaptation = Adaptation(None, in_chans, stem, skip_downsamples, voxel_size, features, preset)
    return adapt_(model, adaptation, lambda: source)


def create_extractor(model: Any, out_indices: tuple[int, ...] | None = None) -> Any:
    """Creates a network's feature extractor with its weights, matched by name; timm may join names by "_".

    Args:
        model: a `PointCloudModel` with its image stem.
        out_indices: which feature maps, as timm counts them; None for timm's default.

    Raises:
        InvalidInputError: the network has a point stem.
        CheckpointError: the extractor has tensors that the network lacks.
    """
    provenance = model.provenance
    settings = provenance.settings
    if settings.stem != "image":
        raise InvalidInputError("`features_only` needs a network with its image stem; this one has a point stem.")
    arguments = {**provenance.model_args, "features_only": True, "in_chans": provenance.in_chans}
    arguments.pop("global_pool", None)
    if out_indices is not None:
        arguments["out_indices"] = out_indices
    extractor = create_model(provenance.architecture, settings.inflation, settings.axis, settings.depth, **arguments)
    targets = extractor.state_dict().keys()
    state = find_base_tensors(model, targets)
    if missing := sorted(targets - state.keys()):
        raise CheckpointError(
            f"The feature extractor of {provenance.architecture} has tensors that its network lacks: {missing}."
        )
    extractor.load_state_dict(state, strict=True)
    extractor.provenance = extractor.provenance.changed(
        settings=settings, source=provenance.source, base=provenance.base, load_base=provenance.load_base
    )
    return extractor.eval()


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
    is_new_to_colors = settings.rgb_mean is None and "rgb" not in parse_features(provenance.settings.features)
    if is_new_to_colors and "rgb" in parse_features(settings.features):  # else a checkpoint keeps what it was trained with
        settings = settings.changed(**image_colors(model))
    in_chans = provenance.in_chans if adaptation.in_chans is None else adaptation.in_chans
    check_in_chans(in_chans)
    if adaptation.features not in (None, Settings.features):  # the default is free: a SparseTensor has its own features
        names = parse_features(settings.features)
        channels = count_channels(names)
        if "extra" not in names and channels != in_chans:
            raise InvalidInputError(
                f"The features {settings.features!r} are {count_of(channels, 'channel')}, and the network reads {in_chans}: "
                f"give in_chans={channels}."
            )
    is_pointed = provenance.settings.stem == "point"
    if adaptation.stem == "image" and is_pointed:
        raise InvalidInputError("The model has a point stem; its image stem is gone. Load the image network instead.")
    if adaptation.stem == "point" and not is_pointed:
        set_point_stem_(model, find_stem(source()), in_chans)
    elif in_chans != provenance.in_chans:
        if is_pointed:
            raise InvalidInputError(
                f"The model's point stem reads {count_of(provenance.in_chans, 'channel')}; got in_chans={in_chans}."
            )
        adapt_in_chans_(model, find_stem(source()), in_chans)
    num_classes = adaptation.num_classes
    if num_classes is not None and num_classes != getattr(model, "num_classes", num_classes):
        model.reset_classifier(num_classes)
    model.settings = settings.changed(stem=model.settings.stem)  # which is set with its layers
    if model.settings.stem == "point":
        model.settings = model.settings.changed(rgb_mean=None, rgb_std=None)
    if adaptation.preset and not settings.preset:
        set_preset_(model, adaptation.preset)
    return model
