"""Losses of point classes: cross-entropy with class weights, and Lovasz-softmax, which follows the intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.choices import LOSSES
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.errors import InvalidInputError


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    loss: str = "cross-entropy",
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Returns the loss of points; those that belong to no class are left out.

    Args:
        logits: (P, K).
        labels: (P,) int64, `IGNORED` for no class.
        loss: "cross-entropy", "lovasz", or the sum of "both".
        class_weights: K weights of the cross-entropy, or None.
        label_smoothing: of the cross-entropy.

    Raises:
        InvalidInputError: an unknown loss, or another number of weights.

    Example:
        >>> segmentation_loss(torch.zeros(3, 2), torch.tensor([0, 1, IGNORED])).item() == torch.tensor(2.0).log().item()
        True
    """
    if loss not in LOSSES:
        raise InvalidInputError(f"`loss` must be one of {', '.join(LOSSES)}; got {loss!r}.")
    if class_weights is not None and len(class_weights) != logits.shape[1]:
        raise InvalidInputError(f"`class_weights` must be {logits.shape[1]} numbers; got {len(class_weights)}.")
    known = labels != IGNORED
    if not bool(known.any()):
        return logits.sum() * 0  # no point has a class, as may happen in a part of a batch
    logits, labels = logits[known], labels[known]
    total = logits.sum() * 0
    if loss != "lovasz":
        weights = None if class_weights is None else logits.new_tensor(class_weights)
        if weights is None or bool(weights[labels].any()):  # else it is 0 / 0
            total = total + F.cross_entropy(logits, labels, weights, label_smoothing=label_smoothing)
    if loss != "cross-entropy":
        total = total + lovasz_softmax(logits.softmax(1), labels)
    return total


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, averaged over the classes that occur (Berman et al. 2018, "The Lovasz-softmax loss").

    Args:
        probabilities: (P, K), rows that sum to 1.
        labels: (P,) int64 classes.

    Example:
        >>> lovasz_softmax(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).item()
        0.5
    """
    losses = []
    for label in labels.unique():
        truth = (labels == label).to(probabilities.dtype)
        errors, order = (truth - probabilities[:, label]).abs().sort(descending=True)
        ordered = truth[order]
        intersection = ordered.sum() - ordered.cumsum(0)
        union = ordered.sum() + (1 - ordered).cumsum(0)
        jaccard = 1 - intersection / union  # when the errors up to each are counted (algorithm 1 of the paper)
        losses.append(errors @ jaccard.diff(prepend=jaccard.new_zeros(1)))
    return torch.stack(losses).mean()
