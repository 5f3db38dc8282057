"""create_model, feature extractors, and adapting a network to clouds: classes, channels, stem, strides, how clouds are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from i2p_zoo.checkpoints.loading import find_base_tensors
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.names import split_name
from i2p_zoo.networks.changes import has_only_another_head
from i2p_zoo.networks.point_cloud_model import inflate
from i2p_zoo.networks.presets import check_preset, set_preset_
from i2p_zoo.networks.stems import (
    adapt_in_chans_,
    check_in_chans,
    check_num_classes,
    check_skip,
    find_stem,
    image_colors,
    set_point_stem_,
)
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
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Any:
    """Creates a sparse 3D network with random weights; `from_pretrained` has image weights.

    Args:
        name: a timm architecture, with or without the prefix "i2p-".
        inflation, axis, depth: as `i2p_zoo.inflate`.
        num_classes: of the classifier; 0 for none; None for the architecture's own.
        in_chans: channels of a voxel.
        stem: "image" keeps the image stem; "point" puts a new 3x3x3 convolution at stride 1 in place of the stem's
            convolution, a transformer's patch embedding for one, and drops its pooling (Image2Point, section 3); "patch"
            likewise a new 2x2x2 one at stride 2. By center inflation a patch embedding sees one plane in each patch: for clouds
            take a new stem, or inflation "average".
        skip_downsamples: how many of the 2D network's first halvings run at stride 1, at most all of them. A new stem has
            skipped the stem's, which count among them. A patch embedding of 16 pixels halves four times: its stride is 8 with
            one of them skipped. Where neighbours are joined in channels, as Swin merges patches, nothing can be skipped.
        voxel_size: edge of a voxel for clouds given to the model, in their units.
        features: what `voxelize` gives each voxel.
        features_only: return the sparse feature maps at each stride, as timm does.
        preset: "image2point" for the paper's own ResNet-18, 50, 101 or 152: inflation "copy", a point stem without activation,
            2x2x2 shortcuts, BatchNorm on the logits; `inflation` and `stem` then need not be given.
        device, dtype: where the network stands and what its tensors are, as `torch.nn.Module.to` takes them.
        **kwargs: passed to `timm.create_model` (`drop_rate`, `drop_path_rate`, `out_indices`, ...).

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
    check_placement(device, dtype)
    if num_classes is not None:
        check_classes(num_classes, features_only)
    if preset:
        check_preset_arguments(preset, None if inflation == "center" else inflation, None if stem == "image" else stem)
        inflation, stem = "copy", "point"
    classes: dict[str, Any] = {} if num_classes is None or features_only else {"num_classes": num_classes}
    if features_only:
        kwargs["features_only"] = True
    image_chans = in_chans if stem == "image" else 3
    source = create_timm_model(architecture, in_chans=image_chans, **kwargs, **classes)
    model: Any = inflate(source, inflation=inflation, axis=axis, depth=depth)
    model.provenance = model.provenance.changed(architecture=architecture, model_args=kwargs, in_chans=image_chans)
    adaptation = Adaptation(None, in_chans, stem, skip_downsamples, voxel_size, features, preset)
    return adapt_(model, adaptation, lambda: source).to(device=device, dtype=dtype)


def check_placement(device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Raises InvalidInputError unless a network can stand on this device and its tensors have this dtype."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # a torch without CUDA asserts
        reason = str(error).split("\n")[0]
        raise InvalidInputError(
            f"`device` must be one that torch can use here, such as 'cpu'; got {device!r} ({reason})."
        ) from error
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidInputError(f"`dtype` must be a floating point dtype such as torch.float16; got {dtype!r}.")


def check_classes(num_classes: int, features_only: bool) -> None:
    """Raises InvalidInputError for a number of classes that no classifier has, or for classes of a feature extractor."""
    check_num_classes(num_classes)
    if features_only and num_classes:
        raise InvalidInputError(f"num_classes={num_classes} with `features_only`: a feature extractor has no classifier.")


def check_preset_arguments(preset: str, inflation: str | None, stem: str | None) -> None:
    """Raises InvalidInputError where another inflation or stem than the preset's is asked for; None asks for none."""
    if inflation not in (None, "copy") or stem not in (None, "point"):
        raise InvalidInputError(
            f"preset={preset!r} has inflation='copy' and stem='point'; got inflation={inflation!r} and stem={stem!r}."
        )


def set_drop_rates(model: Any, rates: dict[str, float], features_only: bool) -> Any:
    """Returns a network with other rates of dropout or drop path, made anew around the same tensors.

    Args:
        model: a network made from a timm architecture.
        rates: `drop_rate`, of dropout before the classifier, `drop_path_rate`, or both.
        features_only: whether the network is to become a feature extractor.

    Raises:
        InvalidInputError: a rate that is no fraction, that timm's network does not take, or of a classifier that is not there.
    """
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < 1:
            raise InvalidInputError(f"`{name}` must be a number of 0 to less than 1; got {rate!r}.")
    if "drop_rate" in rates and (features_only or model.model_args.get("features_only")):
        raise InvalidInputError(f"drop_rate={rates['drop_rate']} drops before a classifier, which a feature extractor has not.")
    config = model.to_config()
    config["model_args"] = {**config["model_args"], **rates}
    replaced = {"drop_rate", "p"} if "drop_rate" in rates else set()
    replaced |= {"drop_prob"} if "drop_path_rate" in rates else set()
    for numbers in config["i2p"].get("changes", {}).get("numbers", {}).values():
        for key in replaced & numbers.keys():
            del numbers[key]
    result = type(model).from_config(config)
    result.load_state_dict(model.state_dict(), strict=True, assign=True)
    result.pretrained_cfg = model.pretrained_cfg
    result.provenance = model.provenance.changed(model_args=config["model_args"])
    return result.eval()


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
        raise InvalidInputError(f"`features_only` needs a network with its image stem; this one has a {settings.stem} stem.")
    if not has_only_another_head(model.to_config()):
        raise InvalidInputError(
            f"`features_only` makes a new network, without what was changed of this one: {type(model).__qualname__} has frozen "
            "normalisation or other numbers than timm's. Load it as it is and call its `forward_intermediates`."
        )
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


def _set_stem_and_skip_(
    model: Any, settings: Settings, in_chans: int, skip: int | None, source: Callable[[], nn.Module]
) -> None:
    """Sets another stem and checks the halvings to be skipped behind it; the network is as it was where these do not fit."""
    provenance = model.provenance
    before: dict[str, nn.Module] = {}
    if settings.stem != provenance.settings.stem:
        before = set_point_stem_(model, find_stem(source()), in_chans, settings.stem)
    try:
        if skip:
            check_skip(model, skip)
    except InvalidInputError:
        for name, layer in before.items():
            model.set_submodule(name, layer)
        model.provenance = provenance
        raise


def adapt_(model: Any, adaptation: Adaptation, source: Callable[[], nn.Module]) -> Any:
    """Adapts an inflated network in place and returns it.

    Args:
        model: a `PointCloudModel`.
        adaptation: what is to be changed.
        source: creates its 2D network, for the stem's names; weights do not matter.

    Raises:
        InvalidInputError: an unknown stem, a point stem turned back, features of other channels than the network reads, more
            halvings to skip than it has, classes of a feature extractor, or numbers out of range; the network is as it was.
    """
    provenance = model.provenance
    changes = {name: getattr(adaptation, name) for name in ("stem", "skip_downsamples", "voxel_size", "features")}
    settings = provenance.settings.changed(**{name: value for name, value in changes.items() if value is not None})
    is_new_to_colors = settings.rgb_mean is None and "rgb" not in parse_features(provenance.settings.features)
    if is_new_to_colors and "rgb" in parse_features(settings.features):  # else a checkpoint keeps what it was trained with
        settings = settings.changed(**image_colors(model))
    in_chans = provenance.in_chans if adaptation.in_chans is None else adaptation.in_chans
    check_in_chans(in_chans)
    num_classes = adaptation.num_classes
    if num_classes is not None:
        check_classes(num_classes, bool(provenance.model_args.get("features_only")))
    if adaptation.features not in (None, Settings.features):  # the default is free: a SparseTensor has its own features
        names = parse_features(settings.features)
        channels = count_channels(names)
        if "extra" not in names and channels != in_chans:
            raise InvalidInputError(
                f"The features {settings.features!r} are {count_of(channels, 'channel')}, and the network reads {in_chans}: "
                f"give in_chans={channels}."
            )
    present = provenance.settings.stem
    is_pointed = present != "image"
    if is_pointed and adaptation.stem not in (None, present):
        raise InvalidInputError(f"The model has a {present} stem; its image stem is gone. Load the image network instead.")
    _set_stem_and_skip_(model, settings, in_chans, adaptation.skip_downsamples, source)
    if settings.stem == present and in_chans != provenance.in_chans:
        if is_pointed:
            raise InvalidInputError(
                f"The model's {present} stem reads {count_of(provenance.in_chans, 'channel')}; got in_chans={in_chans}."
            )
        adapt_in_chans_(model, find_stem(source()), in_chans)
    if num_classes is not None and num_classes != getattr(model, "num_classes", num_classes):
        model.reset_classifier(num_classes)
    model.settings = settings.changed(stem=model.settings.stem)  # which is set with its layers
    if model.settings.stem != "image":
        model.settings = model.settings.changed(rgb_mean=None, rgb_std=None)
    if adaptation.preset and not settings.preset:
        set_preset_(model, adaptation.preset)
    return model
