"""Accuracy of a classifier on labelled clouds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.data import CloudSet, evaluation_batches
from i2p_zoo.errors import DivergedError, InvalidInputError
from i2p_zoo.modules import eval_mode
from i2p_zoo.sparse.device_memory import SMALLER_BATCH, explain_memory
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.wording import count_of


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled clouds, as fractions.

    Attributes:
        top1: of all clouds.
        mean_class: mean over the classes that occur.
        per_class: of each class by name; None for one that does not occur.
        predictions: (M,) the predicted classes.
        confusion: (K, K) numbers of clouds by true and predicted class.
    """

    top1: float
    mean_class: float
    per_class: dict[str, float | None] = field(repr=False)
    predictions: NDArray[np.int64] = field(repr=False)
    confusion: NDArray[np.int64] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fractions as JSON types."""
        return {"top1": self.top1, "mean_class": self.mean_class, "per_class": self.per_class}


@torch.no_grad()
def predict_logits(model: Any, clouds: CloudSet, batch_size: int = 64, offset: float = 0.0) -> torch.Tensor:
    """Returns (M, K) logits of clouds, on the CPU; the model runs in eval mode and every module's mode is put back.

    Args:
        model: a network with a classifier.
        clouds: to classify.
        batch_size: clouds at once.
        offset: by which each cloud is moved along x, y and z.

    Raises:
        InvalidInputError: no clouds, or a batch size below 1.
        DivergedError: logits that are not finite.
    """
    if not len(clouds) or batch_size < 1:
        raise InvalidInputError(
            "Accuracy needs 1 cloud or more and a batch_size of 1 or more; "
            f"got {count_of(len(clouds), 'cloud')} and batch_size={batch_size}."
        )
    with eval_mode(model):
        logits = torch.cat([_classify(model, x) for x in evaluation_batches(clouds, batch_size, model.settings, offset)])
    broken = (~logits.isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise DivergedError(
            f"The network's outputs for {len(broken)} of {count_of(len(clouds), 'cloud')} are NaN or infinite: training "
            "diverged, by too high a learning rate, or the clouds' features are out of scale."
        )
    return logits


def _classify(model: Any, x: SparseTensor) -> torch.Tensor:
    with explain_memory(lambda: len(x.coords), SMALLER_BATCH):
        logits: torch.Tensor = model(x).cpu()
    return logits


def list_offsets(voxel_size: float, votes: int) -> list[float]:
    """Returns the offsets by which a cloud is moved to be seen on so many grids of voxels, that of its own place first.

    Raises:
        InvalidInputError: fewer than 1 vote.

    Example:
        >>> list_offsets(0.5, 1), list_offsets(0.5, 2)
        ([0.0], [0.0, 0.25])
    """
    if votes < 1:
        raise InvalidInputError(f"`votes` (={votes}) must be at least 1.")
    return [voxel_size * number / votes for number in range(votes)]


def predict_classes(model: Any, clouds: CloudSet, batch_size: int = 64, votes: int = 1) -> NDArray[np.int64]:
    """Returns the (M,) likeliest classes of clouds.

    Of several votes the probabilities are averaged, each on a grid of voxels that is moved along the diagonal of a voxel by a
    further part of it.

    Raises:
        InvalidInputError, DivergedError: as `predict_logits` and `list_offsets`.
    """
    offsets = list_offsets(model.settings.voxel_size, votes)
    if votes == 1:
        return predict_logits(model, clouds, batch_size).argmax(1).numpy()
    shares = [predict_logits(model, clouds, batch_size, offset).double().softmax(1) for offset in offsets]
    return torch.stack(shares).sum(0).argmax(1).numpy()


def evaluate(model: Any, clouds: CloudSet, batch_size: int = 64, accelerator: Any = None, votes: int = 1) -> Accuracy:
    """Classifies labelled clouds in eval mode; every module's mode is put back.

    Args:
        model: a network with a classifier.
        clouds: labelled.
        batch_size: clouds at once.
        accelerator: of several processes, each of which takes its share of the clouds; all get the whole.
        votes: on how many grids of voxels each cloud is seen, the first its own, each moved by a further part of a voxel;
            probabilities are averaged. It takes as many times as long.

    Raises:
        InvalidInputError, DivergedError: as `predict_classes`.
    """
    rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    rows = np.arange(rank, len(clouds), processes)
    shares: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    if len(rows) or not len(clouds):  # every process refuses an empty set
        share = clouds if processes == 1 else clouds.subset(rows)
        shares.append((rows, predict_classes(model, share, batch_size, votes)))
    predictions = np.empty(len(clouds), np.int64)
    for numbers, classes in require("accelerate.utils", "finetune").gather_object(shares) if processes > 1 else shares:
        predictions[numbers] = classes
    return count_accuracy(predictions, clouds)


def count_accuracy(predictions: NDArray[np.int64], clouds: CloudSet) -> Accuracy:
    """Compares (M,) predicted classes with a set's labels."""
    labels, count = clouds.hard_labels(), max(len(clouds.classes), int(predictions.max(initial=0)) + 1)
    confusion = np.bincount(labels * count + predictions, minlength=count * count).reshape(count, count)
    totals = confusion.sum(1)
    per_class = {name: float(confusion[k, k] / totals[k]) if totals[k] else None for k, name in enumerate(clouds.classes)}
    occurring = [value for value in per_class.values() if value is not None]
    return Accuracy(float((predictions == labels).mean()), float(np.mean(occurring)), per_class, predictions, confusion)
