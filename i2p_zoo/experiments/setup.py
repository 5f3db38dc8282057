"""Which network a run trains, and what of it."""

from __future__ import annotations

import math
import os
import typing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune import MODES, ParameterCount, freeze
from i2p_zoo.names import split_name
from i2p_zoo.networks.models import create_model
from i2p_zoo.sparse.point_features import CHANNELS
from i2p_zoo.staging import locate
from i2p_zoo.zoo.pretrained import from_pretrained

LEARNING_RATES = {"all": 0.05, "io+bn": 0.2, "io+stats": 0.2, "io": 0.2, "head": 0.2}
"""Peak of SGD's learning rate by mode, for batches of 32."""
SCRATCH_LEARNING_RATE = 0.05
DEFAULT_INFLATION = "average"
"""Which puts all taps of a kernel to use: on surfaces most sites have neighbours on other planes."""
_CHOICES = {"mode": MODES, "inflation": INFLATIONS, "axis": ("z", "y", "x"), "stem": ("point", "image")}
_WIDTHS = {**CHANNELS, "extra": 1}


@dataclass(frozen=True)
class Setup:
    """The network of a run.

    Attributes:
        model: a name or folder, as `i2p_zoo.from_pretrained` takes it. A folder's classifier is kept where its noted classes
            are those of the clouds.
        mode: of `i2p_zoo.finetune.freeze`.
        scratch: the same network with random weights.
        inflation: "center", "average" or "copy"; None for what a folder holds, and "average" otherwise.
        axis: of the inflation, "z", "y" or "x"; None for what a folder holds, and "z" otherwise.
        stem: "point" or "image".
        skip_downsamples: how many of the first halvings run at stride 1.
        voxel_size: edge of a voxel; objects fill the unit sphere.
        features: what a voxel carries.

    Raises:
        InvalidInputError: a value of another type, an unknown mode, inflation, axis or stem, a number out of range, or
            features that data sets do not have.
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

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not is_of_kind(Setup, name, value):
                raise InvalidInputError(f"`{name}` must be of type {Setup.__annotations__[name]}; got {value!r}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (None, *choices):
                raise InvalidInputError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        if self.skip_downsamples < 0 or not 0 < self.voxel_size < math.inf:
            raise InvalidInputError(
                f"`skip_downsamples` must be 0 or more and `voxel_size` a positive number; got {self.skip_downsamples} and "
                f"{self.voxel_size}."
            )
        unknown = [name for name in self.features.split(",") if name.strip() not in _WIDTHS]
        if unknown:
            raise InvalidInputError(
                f"`features` must be some of {', '.join(_WIDTHS)}, joined by commas; got {self.features!r}."
            )

    @property
    def in_chans(self) -> int:
        """Channels of a voxel."""
        return sum(_WIDTHS[name.strip()] for name in self.features.split(","))

    @property
    def learning_rate(self) -> float:
        """The default peak of the learning rate."""
        return SCRATCH_LEARNING_RATE if self.scratch else LEARNING_RATES.get(self.mode, SCRATCH_LEARNING_RATE)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return asdict(self)


def is_of_kind(owner: type, name: str, value: Any) -> bool:
    """Whether a dataclass's field may have a value, by its annotation: a whole number is a fraction too, and no truth value."""
    annotated = typing.get_type_hints(owner)[name]
    kinds = typing.get_args(annotated) or (annotated,)
    if isinstance(value, bool) and bool not in kinds:
        return False
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def check_folder(setup: Setup, segmented: bool = False) -> None:
    """Makes sure, before anything is trained, that a checkpoint's folder holds a network that the setup can be made of.

    Args:
        setup: which; names and networks from scratch are passed over.
        segmented: whether the network becomes a U-Net's encoder.

    Raises:
        InvalidInputError: it is a U-Net, has a point stem in place of the image stem that is needed, or has another axis, or,
            with a point stem, another inflation or number of channels than are wanted.
        CheckpointError: its config.json is missing or damaged.
    """
    if setup.scratch or not os.path.isdir(setup.model):
        return
    config = read_config(locate(Path(setup.model), CONFIG))["i2p"]
    if config["unet"] is not None:
        raise InvalidInputError(
            f"{setup.model} is a U-Net, of which no other network is made. Give the name of a zoo network, or the folder of a "
            "classifier."
        )
    fixed: dict[str, tuple[Any, Any]] = {"axis": (setup.axis, config["settings"]["axis"])}
    if config["settings"]["stem"] == "point":
        fixed["inflation"] = (setup.inflation, config["settings"]["inflation"])
        fixed["channels of a voxel"] = (setup.in_chans, config["in_chans"])
    for name, (wanted, found) in fixed.items():
        if wanted not in (None, found):
            raise InvalidInputError(
                f"{setup.model} has the {name} {found!r}, which cannot become {wanted!r}. Give the name of a zoo network."
            )
    if (segmented or setup.stem == "image") and config["settings"]["stem"] == "point":
        raise InvalidInputError(
            f"{setup.model} has a point stem, and its image stem is gone. Give the name of a zoo network, or a folder that was "
            "finetuned with `--stem image`."
        )


def stem_of(model: str) -> str | None:
    """Returns the stem of a checkpoint folder's network, "point" or "image"; None for a name."""
    return read_config(locate(Path(model), CONFIG))["i2p"]["settings"]["stem"] if os.path.isdir(model) else None


def build_model(setup: Setup, classes: tuple[str, ...], seed: int = 0) -> tuple[Any, ParameterCount]:
    """Loads or creates the network of a setup, with a new classifier, frozen as its mode says.

    Args:
        setup: which.
        classes: names of the classes, which the network notes as timm's `label_names`.
        seed: of the new layers' weights; the caller's random state stays.

    Raises:
        I2PError: as `i2p_zoo.from_pretrained`, `i2p_zoo.create_model` and `i2p_zoo.finetune.freeze`.
    """
    adapted: dict[str, Any] = {
        "num_classes": len(classes),
        "in_chans": setup.in_chans,
        "stem": setup.stem,
        "skip_downsamples": setup.skip_downsamples,
        "voxel_size": setup.voxel_size,
        "features": setup.features,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if setup.scratch:
            model = create_model(architecture_of(setup.model), **structure_of(setup), **adapted)
        elif os.path.isdir(setup.model):
            model = from_pretrained(setup.model, inflation=setup.inflation, **adapted)
            noted = read_config(locate(Path(setup.model), CONFIG))
            if noted["num_classes"] == len(classes) and noted["pretrained_cfg"].get("label_names") != list(classes):
                model.reset_classifier(len(classes))
            if setup.axis not in (None, model.settings.axis):
                raise InvalidInputError(f"{setup.model} is inflated along {model.settings.axis!r}; {setup.axis!r} is wanted.")
        else:
            model = from_pretrained(setup.model, **structure_of(setup), **adapted)
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), "label_names": list(classes)}
    return model, freeze(model, setup.mode)


def structure_of(setup: Setup) -> dict[str, Any]:
    """Arguments of `create_model` for a network as a folder's, from scratch, or as a named one is converted."""
    found: dict[str, Any] = {"inflation": DEFAULT_INFLATION, "axis": "z"}
    if os.path.isdir(setup.model):
        config = read_config(locate(Path(setup.model), CONFIG))
        settings = config["i2p"]["settings"]
        found = {**config["model_args"], **{key: settings[key] for key in ("inflation", "axis", "depth", "preset")}}
    return {**found, **{key: value for key in ("inflation", "axis") if (value := getattr(setup, key))}}


def weights_of(model: str) -> Any:
    """Returns the hashes of a checkpoint folder's weights, by which a run knows it again; None for a name."""
    return read_config(locate(Path(model), CONFIG))["i2p"]["weights"] if os.path.isdir(model) else None


def architecture_of(model: str) -> str:
    """Returns timm's architecture of a name or a checkpoint's folder."""
    if os.path.isdir(model):
        return split_name(read_config(locate(Path(model), CONFIG))["architecture"])[0]
    return split_name(model)[0]
