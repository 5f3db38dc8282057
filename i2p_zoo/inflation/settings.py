"""How a network was made from its 2D source and how it reads point clouds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How a network was made from its 2D source and how it reads point clouds.

    Attributes:
        inflation: "center", "average" or "copy"; "" before any weights.
        axis: the new axis, "z", "y" or "x".
        depth: the longest kernel along it, or None for a kernel's larger side.
        stem: "image" or "point".
        skip_downsamples: how many of the 2D network's first halvings run at stride 1.
        voxel_size: edge of a voxel, in the clouds' units.
        features: what `voxelize` gives each voxel.
        preset: "image2point" for the paper's own network, "" for timm's.
    """

    inflation: str = ""
    axis: str = "z"
    depth: int | None = None
    stem: str = "image"
    skip_downsamples: int = 0
    voxel_size: float = 0.05
    features: str = "xyz"
    preset: str = ""

    def changed(self, **changes: Any) -> Settings:
        """Returns a copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return asdict(self)
