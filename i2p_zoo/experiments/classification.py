"""Classes of single clouds by a trained network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from i2p_zoo.data.batches import move_cloud
from i2p_zoo.data.scenes import select_features
from i2p_zoo.data.unit_sphere import to_unit_sphere
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.finetune.evaluation import list_offsets
from i2p_zoo.modules import class_names, count_classes
from i2p_zoo.networks.unet import UNet
from i2p_zoo.sparse.device_memory import explain_memory
from i2p_zoo.sparse.point_features import parse_features


def normalize(cloud: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns a cloud centred on its mean and scaled into the unit sphere, as the data sets of objects are."""
    return {**cloud, "points": to_unit_sphere(cloud["points"])}


def check_classifier(model: Any) -> None:
    """Raises InvalidInputError where a network gives whole clouds no class: a U-Net, or one without a classifier."""
    if isinstance(model, UNet):
        raise InvalidInputError("The network is a U-Net, which classifies points: `i2p-zoo segment predict` runs it.")
    if not count_classes(model):
        raise InvalidInputError(f"{type(model).__qualname__} has no classifier, so it names no class.")


def name_classes(model: Any) -> tuple[str, ...]:
    """Returns the names of a network's classes that it notes, or else their numbers."""
    return tuple(map(str, class_names(model) or range(count_classes(model) or 0)))


def classify(model: Any, cloud: Mapping[str, NDArray[Any]], top: int = 3) -> dict[str, float]:
    """Returns the likeliest classes of a cloud with their probabilities, by the names that the network notes, or by number.

    Raises:
        InvalidInputError: the network has no classifier or is a U-Net, or reads features that the cloud does not have.
        DivergedError: its outputs are not finite.
        DeviceMemoryError: a GPU's memory does not suffice for the cloud; also a `torch.OutOfMemoryError`.
    """
    check_classifier(model)
    selected = select_features("The cloud", dict(cloud), parse_features(model.settings.features))
    model.eval()
    with torch.no_grad():
        x = model.prepare([selected])
        with explain_memory(lambda: len(x.coords), "Take a larger voxel size, or in Python blocks: `predict(max_voxels=)`."):
            shares = model(x)[0].double().softmax(0)
    if not shares.isfinite().all():
        raise DivergedError("The network's outputs are NaN or infinite: training diverged, or the features are out of scale.")
    names = name_classes(model)
    values, order = shares.topk(min(top, len(shares)))
    return {names[number]: value for number, value in zip(order.tolist(), values.tolist(), strict=True)}


def vote(
    classify: Callable[[Mapping[str, NDArray[Any]], int], dict[str, float]],
    cloud: Mapping[str, NDArray[Any]],
    voxel_size: float,
    votes: int = 1,
    top: int = 3,
) -> dict[str, float]:
    """Returns the likeliest classes of a cloud with the mean of their probabilities on several grids of voxels.

    Args:
        classify: of a network, as `classify`: a cloud's likeliest classes, of which there are as many as it is told.
        cloud: to classify.
        voxel_size: of the network.
        votes: how many grids, as `i2p_zoo.finetune.evaluate`.
        top: how many classes.

    Raises:
        InvalidInputError: fewer than 1 vote.
        I2PError: as `classify`.
    """
    offsets = list_offsets(voxel_size, votes)
    if votes == 1:
        return classify(cloud, top)
    seen = [classify(move_cloud(dict(cloud), offset), sys.maxsize) for offset in offsets]
    means = {name: sum(shares[name] for shares in seen) / votes for name in seen[0]}
    return dict(sorted(means.items(), key=lambda item: -item[1])[:top])
