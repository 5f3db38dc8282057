"""Which network a run trains, and what of it."""

from __future__ import annotations

import math
import os
import typing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.choices import AXES, CLASSIFIERS, INFLATIONS, NETWORKS, PRESETS, READOUTS, RUN_MODES, STATISTICS, STEMS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.experiments.views import ViewNetwork, ViewPyramid, build_view_network
from i2p_zoo.finetune import ParameterCount, add_lora_, freeze
from i2p_zoo.inflation.volumes import draw_volumes_
from i2p_zoo.modules import class_names, set_class_names_
from i2p_zoo.names import split_name
from i2p_zoo.networks.models import check_preset_arguments, create_model
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.sparse.point_features import count_channels, parse_features
from i2p_zoo.staging import locate
from i2p_zoo.zoo.pretrained import from_pretrained
from i2p_zoo.zoo.pretrained_pyramid import create_pyramid_classifier

LEARNING_RATES = {"all": 0.05, "io+bn": 0.2, "io+stats": 0.2, "io": 0.2, "head": 0.2, "lora": 0.1}
"""Peak of SGD's learning rate by mode, for batches of 32, with image weights as with random ones (docs/results.md)."""
DEFAULT_INFLATION = "average"
"""Which puts all taps of a kernel to use: on surfaces most sites have neighbours on other planes."""
_CHOICES = {
    "mode": RUN_MODES,
    "inflation": INFLATIONS,
    "axis": AXES,
    "preset": PRESETS,
    "stem": STEMS,
    "network": NETWORKS,
    "statistics": STATISTICS,
    "readout": READOUTS,
    "classifier": CLASSIFIERS,
}


@dataclass(frozen=True)
class Setup:
    """The network of a run.

    Attributes:
        model: a name or folder, as `i2p_zoo.from_pretrained` takes it. A folder's classifier is kept where its noted classes
            are those of the clouds.
        mode: of `i2p_zoo.finetune.freeze`; or "lora", low-rank changes (`add_lora_`), which are merged when they are trained.
        scratch: the same network with random weights, drawn in three dimensions (`draw_volumes_`).
        inflation: "center", "triangle", "average" or "copy"; None for what a folder holds, and "average" otherwise.
        axis: of the inflation, "z", "y" or "x"; None for what a folder holds, and "z" otherwise.
        preset: "image2point" for the paper's own ResNet, whose inflation is "copy" and whose stem "point"; None for timm's
            network, or what a folder holds.
        stem: "point", "patch" or "image".
        skip_downsamples: how many of the first halvings run at stride 1.
        voxel_size: edge of a voxel; objects fill the unit sphere.
        features: what a voxel carries.
        network: "voxels", the inflated network; or "views", timm's 2D network on depth images of the cloud from six sides, of
            which inflation, axis, stem and skip_downsamples say nothing; readout "pyramid" is of all its maps, side by side.
        statistics: of BatchNorm before training, "image" or "clouds", those of the clouds to train on (`adapt_statistics_`).
        readout: what the classifier reads, "last", the mean of the last feature map as in timm's network, "pyramid", all
            feature maps by octants, or "pyramid+views", these and what the image network sees from six sides
            (`PyramidClassifier`).
        classifier: before training, "random" or "ridge", solved for by ridge regression on the clouds (`fit_ridge_`).
        lora_rank: of the changes of mode "lora".
        unlabelled: whether the clouds' statistics and the ridge regression take, beside the clouds to train on, those without
            labels that the run is given.

    Raises:
        InvalidInputError: a value of another type, an unknown word, a number out of range, features that data sets do not
            have, a preset with another inflation or stem or with a pyramid, unlabelled clouds without ridge regression,
            views of other features than xyz, or a network of views of a folder, or with a preset, mode or readout for
            inflated networks.
    """

    model: str
    mode: str = "all"
    scratch: bool = False
    inflation: str | None = None
    axis: str | None = None
    stem: str = "point"
    skip_downsamples: int = 3
    voxel_size: float = 0.07
    features: str = "xyz"
    network: str = "voxels"
    statistics: str = "image"
    readout: str = "last"
    classifier: str = "random"
    preset: str | None = None
    lora_rank: int = 8
    unlabelled: bool = False

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not fits_annotation(Setup, name, value):
                raise InvalidInputError(f"`{name}` must be of type {Setup.__annotations__[name]}; got {value!r}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (None, *choices):
                raise InvalidInputError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        if self.lora_rank < 1:
            raise InvalidInputError(f"`lora_rank` (={self.lora_rank}) must be at least 1.")
        if self.skip_downsamples < 0 or not 0 < self.voxel_size < math.inf:
            raise InvalidInputError(
                f"`skip_downsamples` must be 0 or more and `voxel_size` a positive number; got {self.skip_downsamples} and "
                f"{self.voxel_size}."
            )
        parse_features(self.features)
        if self.preset:
            check_preset_arguments(self.preset, self.inflation, self.stem)
            if self.readout != "last":
                raise InvalidInputError(
                    f"preset={self.preset!r} is of networks with readout 'last'; got readout={self.readout!r}."
                )
        if self.unlabelled and self.classifier != "ridge":
            raise InvalidInputError(
                f"Unlabelled clouds are for the classifier 'ridge', which labels spread to; got classifier={self.classifier!r}."
            )
        if self.readout == "pyramid+views" and (self.stem, self.features) != ("image", "xyz"):
            raise InvalidInputError(
                "readout='pyramid+views' draws features 'xyz' and keeps the stem 'image'; got "
                f"features={self.features!r} and stem={self.stem!r}."
            )
        in_views = (
            (self.features, self.preset) == ("xyz", None)
            and self.readout in ("last", "pyramid")
            and self.mode in ("all", "head", "none")
            and not os.path.isdir(self.model)
        )
        if self.network == "views" and not in_views:
            raise InvalidInputError(
                "Views are of features xyz and of a network by name, with readout last or pyramid, no preset and in mode all, "
                f"head or none; got features={self.features!r}, model={self.model!r}, readout={self.readout!r}, "
                f"preset={self.preset!r} and mode={self.mode!r}."
            )

    @property
    def in_chans(self) -> int:
        """Channels of a voxel."""
        return count_channels(parse_features(self.features), extra=1)

    @property
    def has_random_weights(self) -> bool:
        """Whether weights are drawn at random before training, so that runs differ by their seed even without a step."""
        stem_is_new = self.network == "voxels" and self.stem != "image"
        return self.scratch or self.classifier == "random" or stem_is_new

    @property
    def voxel_arguments(self) -> dict[str, Any]:
        """Arguments of `create_model` about voxels and the layers that read them."""
        names = ("in_chans", "stem", "skip_downsamples", "voxel_size", "features")
        return {name: getattr(self, name) for name in names}

    @property
    def learning_rate(self) -> float:
        """The default peak of the learning rate."""
        return LEARNING_RATES.get(self.mode, LEARNING_RATES["all"])

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return asdict(self)


def fits_annotation(owner: type, name: str, value: Any) -> bool:
    """Whether a dataclass's field may have a value, by its annotation: a whole number is a fraction too, and no truth value."""
    annotation = typing.get_type_hints(owner)[name]
    types = typing.get_args(annotation) or (annotation,)
    if isinstance(value, bool) and bool not in types:
        return False
    return isinstance(value, (*types, int) if float in types else types)


def read_folder_config(model: str) -> dict[str, Any] | None:
    """Returns config.json of a checkpoint's folder, or None for a name; raises CheckpointError for a damaged one."""
    return read_config(locate(Path(model), CONFIG)) if os.path.isdir(model) else None


def check_folder(setup: Setup, segmented: bool = False) -> None:
    """Makes sure, before anything is trained, that a checkpoint's folder holds a network that the setup can be made of.

    Args:
        setup: which; names and networks from scratch are passed over.
        segmented: whether the network becomes a U-Net's encoder.

    Raises:
        InvalidInputError: it is a U-Net or a pyramid classifier, has a new stem in place of the image stem that is needed, or
            has another axis, or, with such a stem, another inflation or number of channels than the setup.
        CheckpointError: its config.json is missing or damaged.
    """
    config = None if setup.scratch else read_folder_config(setup.model)
    if config is None:
        return
    settings = config["i2p"]["settings"]
    form = "a U-Net" if config["i2p"]["unet"] is not None else "a pyramid classifier" if config["i2p"].get("pyramid") else None
    if form is not None:
        raise InvalidInputError(
            f"{setup.model} is {form}, which cannot be turned into another network. Give the name of a zoo network, "
            f"or the folder of a classifier."
        )
    fixed: list[tuple[str, Any, Any]] = [("axis", settings["axis"], setup.axis)]
    if settings["stem"] != "image":
        fixed.append(("inflation", settings["inflation"], setup.inflation))
        fixed.append(("channels of a voxel", config["i2p"]["in_chans"], setup.in_chans))
    for name, present, expected in fixed:
        if expected not in (None, present):
            raise InvalidInputError(
                f"{setup.model} has the {name} {present!r}, which cannot become {expected!r}. Give the name of a zoo network."
            )
    if (segmented or setup.readout != "last" or setup.stem == "image") and settings["stem"] != "image":
        raise InvalidInputError(
            f"{setup.model} has a {settings['stem']} stem, and its image stem is gone. Give the name of a zoo network, or a "
            "folder that was finetuned with `--stem image`."
        )


def build_model(setup: Setup, classes: tuple[str, ...], seed: int = 0) -> tuple[Any, ParameterCount]:
    """Loads or creates the network of a setup, with a new classifier, frozen as its mode says.

    Args:
        setup: which.
        classes: names of the classes, which the network notes as timm's `label_names`.
        seed: of the new layers' weights; the caller's random state stays.

    Raises:
        I2PError: as `check_folder`, `i2p_zoo.from_pretrained`, `i2p_zoo.create_model` and `i2p_zoo.finetune.freeze`.
    """
    check_folder(setup)
    config = read_folder_config(setup.model)
    arguments = {"num_classes": len(classes), **setup.voxel_arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if setup.network == "views":
            model: Any = _build_views(setup, len(classes))
        elif setup.readout != "last":
            model = _build_pyramid(setup, len(classes))
        elif setup.scratch:
            model = create_model(architecture_of(setup.model), **structure_of(setup), **arguments)
            draw_volumes_(model)
        elif config is None:
            model = from_pretrained(setup.model, **structure_of(setup), **arguments)
        else:
            model = from_pretrained(setup.model, inflation=setup.inflation, preset=setup.preset, **arguments)
            if config["num_classes"] == len(classes) and class_names(model) != classes:
                model.reset_classifier(len(classes))
        count = set_trained_(model, setup)
    set_class_names_(model, classes)
    return model, count


def set_trained_(model: Any, setup: Setup) -> ParameterCount:
    """Sets what of a network trains, as a setup's mode says; raises as `freeze` and `add_lora_`."""
    return add_lora_(model, setup.lora_rank) if setup.mode == "lora" else freeze(model, setup.mode)


def _build_views(setup: Setup, classes: int) -> ViewNetwork | ViewPyramid:
    if setup.readout == "last":
        return build_view_network(setup.model, classes, setup.scratch, setup.voxel_size)
    views: Any = _build_pyramid(replace(setup, network="voxels", readout="pyramid+views", stem="image"), classes).views
    return ViewPyramid(views, classes, setup.voxel_size)


def _build_pyramid(setup: Setup, classes: int) -> PyramidClassifier:
    arguments: dict[str, Any] = setup.voxel_arguments
    if setup.scratch:
        name, arguments = architecture_of(setup.model), {**arguments, **structure_of(setup), "pretrained": False}
    elif read_folder_config(setup.model) is None:
        name, arguments = setup.model, {**arguments, **structure_of(setup)}
    else:
        name, arguments = setup.model, {**arguments, "inflation": setup.inflation}
    model = create_pyramid_classifier(name, classes, views=setup.readout == "pyramid+views", **arguments)
    if setup.scratch:
        draw_volumes_(model.encoder)
    return model


def structure_of(setup: Setup) -> dict[str, Any]:
    """Arguments of `create_model` for a network as a folder's, from scratch, or as a named one is converted."""
    structure: dict[str, Any] = {"inflation": DEFAULT_INFLATION, "axis": "z"}
    if config := read_folder_config(setup.model):
        settings = config["i2p"]["settings"]
        structure = {**config["model_args"], **{key: settings[key] for key in ("inflation", "axis", "depth", "preset")}}
    if setup.preset:
        structure["inflation"] = "copy"
    return {**structure, **{key: value for key in ("inflation", "axis", "preset") if (value := getattr(setup, key))}}


def is_finetuned(model: str) -> bool:
    """Whether a folder's network is noted as another than was certified; never of a name or of random weights."""
    config = read_folder_config(model)
    return bool(config and (config["i2p"]["certificate"] or {}).get("finetuned"))


def stem_of(model: str) -> str | None:
    """Returns the stem of a checkpoint folder's network, "image", "point" or "patch"; None for a name."""
    config = read_folder_config(model)
    return config["i2p"]["settings"]["stem"] if config else None


def architecture_of(model: str) -> str:
    """Returns timm's architecture of a name or a checkpoint's folder."""
    config = read_folder_config(model)
    return split_name(config["architecture"] if config else model)[0]
