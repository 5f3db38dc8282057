"""Classes of single clouds by an exported network, as a checkpoint's network gives them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo.data.scenes import select_features
from i2p_zoo.data.unit_sphere import describe_mismatch
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.export.runtime import OnnxNetwork
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.point_values import as_tensor, fix_range, to_unit_normals


def classify_exported(network: OnnxNetwork, cloud: Mapping[str, NDArray[Any]], top: int = 3) -> dict[str, float]:
    """Returns the likeliest classes of a cloud with their probabilities, by the names that the file notes, or by number.

    Raises:
        InvalidInputError: the network is no classifier, or reads features that the cloud does not have.
        DivergedError: its outputs are not finite.

    Warns:
        UserWarning: the cloud is plainly not normalised as those that the network was trained on.
    """
    metadata = network.metadata
    if metadata.task != "classification":
        raise InvalidInputError(f"The file holds a network for {metadata.task}, which gives whole clouds no class.")
    selected = select_features("The cloud", dict(cloud), parse_features(metadata.features))
    points = selected["points"]
    low, high = points[:, :3].min(0).tolist(), points[:, :3].max(0).tolist()
    if mismatch := describe_mismatch(metadata.normalization, low, high, metadata.voxel_size):
        warnings.warn(f"The network was trained on clouds {mismatch}. Normalise them alike.", stacklevel=2)
    columns = [_read_column(selected, name) for name in metadata.columns.split(",") if name]
    features = [np.concatenate(columns, axis=1)] if columns else None
    logits = network([points], features)["logits"][0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise DivergedError("The network's outputs are NaN or infinite: training diverged, or the features are out of scale.")
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    names = metadata.labels or list(map(str, range(len(shares))))
    return {names[number]: float(shares[number]) for number in np.argsort(-shares, kind="stable")[:top].tolist()}


def _read_column(cloud: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    """What an exported network takes of a feature."""
    if name == "extra":
        return cloud["points"][:, 3:].astype(np.float32)
    if name == "rgb":
        return fix_range([cloud[name]])[0]
    values = as_tensor(cloud[name], f"`{name}`")
    values = to_unit_normals(values, 0) if name == "normals" else values.reshape(len(values), -1)
    column: NDArray[np.float32] = values.float().numpy()
    return column
