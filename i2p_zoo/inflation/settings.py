"""How a network was made from its 2D source and how it reads point clouds."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.choices import NORMALIZATIONS, PRESETS, STEMS
from i2p_zoo.data.unit_sphere import describe_mismatch
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.kernel_inflation import check_depth, check_inflation
from i2p_zoo.sparse.geometry import Pair, check_axis, check_voxel_size
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import voxelize

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Settings:
    """How a network was made from its 2D source and how it reads point clouds.

    Attributes:
        inflation: "center", "triangle", "average" or "copy".
        axis: the new axis, "z", "y" or "x".
        depth: the longest kernel along it, or None for a kernel's larger side.
        stem: "image", or a new one: "point" or "patch".
        skip_downsamples: how many of the 2D network's first halvings run at stride 1.
        voxel_size: edge of a voxel, in the clouds' units.
        features: what `voxelize` gives each voxel.
        preset: "image2point" for the paper's own network, "" for timm's.
        rgb_mean, rgb_std: by which the feature "rgb" is standardised, as the image stem was trained with; None for fractions
            of 0 to 1 as they are, as a new stem reads them.
        normalization: of the clouds that the network was trained on: "unit_sphere" (centred on their mean, the farthest point
            at a distance of 1), "centred" (crops and blocks of scenes, in the middle of their box), "" for none or unknown.
        canvas: (height, width) of the image, in pixels, that a cloud passes for in a network which looks at places (a
            transformer); None for convolutional ones.

    Raises:
        InvalidInputError: an unknown word, or a number out of range.
    """

    inflation: str = "center"
    axis: str = "z"
    depth: int | None = None
    stem: str = "image"
    skip_downsamples: int = 0
    voxel_size: float = 0.05
    features: str = "xyz"
    preset: str = ""
    rgb_mean: Color | None = None
    rgb_std: Color | None = None
    normalization: str = ""
    canvas: Pair | None = None

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        check_axis(self.axis)
        check_depth(self.depth)
        if self.stem not in STEMS:
            raise InvalidInputError(f"`stem` must be 'image', 'point' or 'patch'; got {self.stem!r}.")
        if type(self.skip_downsamples) is not int or self.skip_downsamples < 0:
            raise InvalidInputError(f"`skip_downsamples` must be 0 or a positive integer; got {self.skip_downsamples!r}.")
        if not isinstance(self.features, str):
            raise InvalidInputError(f"`features` must be names joined by commas, such as 'xyz,rgb'; got {self.features!r}.")
        parse_features(self.features)
        if self.preset not in ("", *PRESETS):
            raise InvalidInputError(f"`preset` must be one of {', '.join(PRESETS)}; got {self.preset!r}.")
        if self.normalization not in ("", *NORMALIZATIONS):
            raise InvalidInputError(f"`normalization` must be one of {', '.join(NORMALIZATIONS)}; got {self.normalization!r}.")
        object.__setattr__(self, "canvas", _check_canvas(self.canvas))
        object.__setattr__(self, "voxel_size", check_voxel_size(self.voxel_size))
        for name, lowest in (("rgb_mean", -math.inf), ("rgb_std", 0.0)):
            object.__setattr__(self, name, _check_color(name, getattr(self, name), lowest))

    def voxelize(self, clouds: Any) -> tuple[SparseTensor, Tensor]:
        """Gathers clouds into voxels as the network reads them; the one way there, in training, evaluation and prediction.

        Args:
            clouds: as `i2p_zoo.voxelize` takes them.

        Returns:
            The sparse tensor, and the row of each point's voxel, as `i2p_zoo.voxelize` with `return_index`.

        Raises:
            InvalidInputError: as `i2p_zoo.voxelize`.

        Warns:
            UserWarning: the clouds are plainly not normalised as those that the network was trained on.
        """
        colors: dict[str, Any] = {"rgb_mean": self.rgb_mean, "rgb_std": self.rgb_std}
        x, index = voxelize(clouds, self.voxel_size, self.features, return_index=True, **colors)
        if self.normalization:
            low, high = ((side[1:].flip(0) * self.voxel_size).tolist() for side in torch.aminmax(x.coords, dim=0))
            high = [value + self.voxel_size for value in high]
            if mismatch := describe_mismatch(self.normalization, low, high, self.voxel_size):
                warnings.warn(f"The network was trained on clouds {mismatch}. Normalise them alike.", stacklevel=2)
        return x, index

    def changed(self, **changes: Any) -> Settings:
        """Returns a copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _check_color(name: str, value: Any, lowest: float) -> Color | None:
    if value is None:
        return None
    is_color = isinstance(value, list | tuple) and len(value) == 3
    if not is_color or not all(type(part) in (int, float) and lowest < part < math.inf for part in value):
        raise InvalidInputError(f"`{name}` must be three {'positive ' * (lowest == 0)}numbers or None; got {value!r}.")
    red, green, blue = map(float, value)
    return (red, green, blue)


def _check_canvas(value: Any) -> Pair | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        raise InvalidInputError(f"`canvas` must be (height, width), two positive integers, or None; got {value!r}.")
    height, width = value
    return (height, width)
