"""What an exported file says of itself, as text under names of its own; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from i2p_zoo.errors import CheckpointError

FORMAT_VERSION = 1
"""The newest format of exported files, and the only one that this version reads."""
_PREFIX = "i2p_zoo."


@dataclass
class Metadata:
    """What an exported file says of its network.

    Attributes:
        task: "classification" of clouds, "segmentation" of points, or "features" of voxels or clouds.
        architecture: timm's name.
        labels: names of the classes; empty where none are noted.
        voxel_size: edge of a voxel, in the clouds' units.
        features: what the network reads of a point, in this order: names joined by commas.
        columns: those of them that the input `features` holds; empty where there is no such input.
        normalization: of the clouds that the network was trained on: "unit_sphere", "centred" or "".
        strides: of "features", the stride of each output.
        config: the network's own, as a checkpoint's config.json has it: settings, source, certificate.
        sha256: of the network's tensors, as the checkpoint's certificate notes it.
        package_version: of this package.
        format_version: of these entries.
    """

    task: str
    architecture: str | None
    labels: list[str]
    voxel_size: float
    features: str
    columns: str
    normalization: str
    strides: list[Any]
    config: dict[str, Any]
    sha256: str
    package_version: str
    format_version: int = FORMAT_VERSION

    def to_entries(self) -> dict[str, str]:
        """Returns the entries of a file's `metadata_props`, each value as JSON."""
        return {_PREFIX + name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_entries(cls, entries: Mapping[str, str], path: str) -> Metadata:
        """Undoes `to_entries`.

        Raises:
            CheckpointError: the file was written by another program, or in another format.
        """
        version = entries.get(f"{_PREFIX}format_version")
        if version is None:
            raise CheckpointError(f"{path} was not written by `i2p-zoo export`: it has no entry {_PREFIX}format_version.")
        if version != str(FORMAT_VERSION):
            raise CheckpointError(
                f"{path} is of format {version}, written by i2p-zoo {entries.get(f'{_PREFIX}package_version', '?')}; this "
                f"version reads format {FORMAT_VERSION}. Export the network again, or install the version that wrote it."
            )
        try:
            return cls(**{field.name: json.loads(entries[_PREFIX + field.name]) for field in fields(cls)})
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: its metadata lack or hold a wrong {error}.") from error
