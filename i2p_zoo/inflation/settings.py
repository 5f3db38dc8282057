"""How a network was made from its 2D source and how it reads point clouds."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from i2p_zoo.choices import PRESETS, STEMS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers.kernel_inflation import check_depth, check_inflation
from i2p_zoo.sparse.geometry import check_axis
from i2p_zoo.sparse.point_features import parse_features


@dataclass(frozen=True)
class Settings:
    """How a network was made from its 2D source and how it reads point clouds.

    Attributes:
        inflation: "center", "average" or "copy".
        axis: the new axis, "z", "y" or "x".
        depth: the longest kernel along it, or None for a kernel's larger side.
        stem: "image" or "point".
        skip_downsamples: how many of the 2D network's first halvings run at stride 1.
        voxel_size: edge of a voxel, in the clouds' units.
        features: what `voxelize` gives each voxel.
        preset: "image2point" for the paper's own network, "" for timm's.

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

    def __post_init__(self) -> None:
        check_inflation(self.inflation)
        check_axis(self.axis)
        check_depth(self.depth)
        if self.stem not in STEMS:
            raise InvalidInputError(f"`stem` must be 'image' or 'point'; got {self.stem!r}.")
        if type(self.skip_downsamples) is not int or self.skip_downsamples < 0:
            raise InvalidInputError(f"`skip_downsamples` must be 0 or a positive integer; got {self.skip_downsamples!r}.")
        size = float(self.voxel_size) if isinstance(self.voxel_size, np.number) else self.voxel_size
        is_number = isinstance(size, int | float) and not isinstance(size, bool)
        if not is_number or not 0 < size <= sys.float_info.max:  # JSON may hold whole numbers beyond
            raise InvalidInputError(f"`voxel_size` must be a positive number; got {self.voxel_size!r}.")
        if not isinstance(self.features, str):
            raise InvalidInputError(f"`features` must be names joined by commas, such as 'xyz,rgb'; got {self.features!r}.")
        parse_features(self.features)
        if self.preset not in ("", *PRESETS):
            raise InvalidInputError(f"`preset` must be one of {', '.join(PRESETS)}; got {self.preset!r}.")
        object.__setattr__(self, "voxel_size", float(size))

    def changed(self, **changes: Any) -> Settings:
        """Returns a copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return asdict(self)
