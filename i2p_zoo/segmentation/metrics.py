"""Scores of a segmentation: intersection over union, and accuracies, of all points that have a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i2p_zoo.data.clouds import check_class_names
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.point_values import refuse_masked
from i2p_zoo.wording import count_of


@dataclass(frozen=True, eq=False)
class Scores:
    """How well predictions agree with the truth, as fractions.

    Attributes:
        miou: mean of `per_class`, of the classes that have a value.
        accuracy: points whose class is predicted.
        mean_accuracy: mean over the classes that occur in the truth of their points whose class is predicted.
        per_class: intersection over union of each class. A class that is predicted and does not occur has 0; one that
            occurs neither in the truth nor in the predictions has None and no part in the mean.
        confusion: (K, K) int64, points by the class they have, the rows, and the one that is predicted.
    """

    miou: float
    accuracy: float
    mean_accuracy: float
    per_class: dict[str, float | None]
    confusion: NDArray[np.int64] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON takes them."""
        return {**vars(self), "per_class": dict(self.per_class), "confusion": self.confusion.tolist()}


class ConfusionCounter:
    """Counts predictions by their true class, over any number of scenes or batches.

    Attributes:
        classes: the K class names.
        confusion: (K, K) int64, as in `Scores`; those of several counters may be added.

    Raises:
        InvalidInputError: no class, or two of one name.

    Example:
        >>> counter = ConfusionCounter(("floor", "wall", "door"))
        >>> counter.add(np.array([0, 1, 1, 2]), np.array([0, 0, 1, IGNORED]))
        >>> counter.scores().per_class
        {'floor': 0.5, 'wall': 0.5, 'door': None}
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        check_class_names("A confusion matrix", self.classes)
        self.confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def add(self, predictions: Any, labels: Any) -> None:
        """Counts points.

        Args:
            predictions: integers of any shape from 0 to K - 1, a numpy array or a tensor of any device.
            labels: of the same shape, a class or `IGNORED`, whose points are left out.

        Raises:
            InvalidInputError: shapes that differ, masked values, such as are no integers, or one that is no class.
        """
        predicted, true = (_integers(name, values) for name, values in (("predictions", predictions), ("labels", labels)))
        if predicted.shape != true.shape:
            raise InvalidInputError(f"Predictions and labels must have one shape; got {predicted.shape} and {true.shape}.")
        count = len(self.classes)
        for name, values, lowest in (("Predictions", predicted, 0), ("Labels", true, IGNORED)):
            if values.size and not lowest <= values.min() <= values.max() < count:
                raise InvalidInputError(
                    f"{name} must be from {lowest} to {count - 1}, by {count_of(count, 'class')}; "
                    f"got {values.min()} to {values.max()}."
                )
        counted = true != IGNORED
        pairs = true[counted].astype(np.int64) * count + predicted[counted].astype(np.int64)
        self.confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)

    def scores(self) -> Scores:
        """Returns the scores of all that was counted.

        Raises:
            InvalidInputError: no point with a class was counted.
        """
        if not self.confusion.any():
            raise InvalidInputError("No point that has a class was counted: all labels were IGNORED, or none was added.")
        hits, true, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        union = true + predicted - hits
        ratios = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
        return Scores(
            miou=float(ratios[union > 0].mean()),
            accuracy=float(hits.sum() / true.sum()),
            mean_accuracy=float((hits[true > 0] / true[true > 0]).mean()),
            per_class={n: float(r) if u else None for n, r, u in zip(self.classes, ratios, union, strict=True)},
            confusion=self.confusion.copy(),
        )


def _integers(name: str, values: Any) -> NDArray[Any]:
    refuse_masked(values, f"`{name}`")
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"`{name}` must be integers; got {array.dtype}. Take the argmax of scores first.")
    return array
