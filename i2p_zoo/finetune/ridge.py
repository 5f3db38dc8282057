"""A classifier without training: ridge regression on the features of labelled clouds, in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.analysis import penultimate_features
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import DivergedError, InvalidInputError, UnsupportedError
from i2p_zoo.finetune.label_propagation import propagate_labels
from i2p_zoo.modules import find_classifier, set_class_names_
from i2p_zoo.wording import count_of, join_words

_TEMPERATURE = 0.1  # of outputs that are near 1 for the right class, so that softmax tells classes apart
_TRUST = 0.3  # weight of a cloud whose label is certain and yet only propagated, beside that of a labelled one


@torch.no_grad()
def fit_ridge_(
    model: Any,
    clouds: CloudSet,
    strength: float | None = None,
    batch_size: int = 64,
    unlabelled: CloudSet | None = None,
) -> None:
    """Solves for a network's classifier on labelled clouds by ridge regression; no step is trained.

    Features are what the classifier reads, less the mean m of the classes' means, and of unit length: rows X. Weights
    W = (X'X + strength I)^-1 X'T are the least squares fit of T, 1 for a cloud's class and 0 for others, less their mean
    (Bertinetto et al. 2019, "Meta-learning with differentiable closed-form solvers"; centred features of unit length: Wang et
    al. 2019, "SimpleShot"). Of one cloud a class that is nearly the class whose cloud is nearest by angle. Logits are
    W'(f - m) / (0.1 s), s the clouds' mean distance from m: linear in f, so that the classifier remains the layer that it was,
    and can be trained on.

    With unlabelled clouds m is the mean of all features, and labels spread to them first (`propagate_labels`): they are more
    rows, whose T are the shares that arrive, and count by 0.3 times the square of the largest, in the fit and in T's mean.

    Args:
        model: a `PointCloudModel` whose classifier is linear, in place; it notes the clouds' classes. The rest stays.
        clouds: at least one of each class; of soft labels the likeliest counts.
        strength: of the regularisation; rows have length 1. None for one divided by the mean number of clouds a class: the more
            there are, the less must be assumed.
        batch_size: clouds at once.
        unlabelled: more clouds, whose labels are not looked at, or None.

    Raises:
        InvalidInputError: unlabelled clouds of another normalisation, a class without clouds, another number of classes than
            the classifier has, a strength that is no positive number, or as `i2p_zoo.analysis.penultimate_features`.
        UnsupportedError: a classifier that is no linear layer.
        DivergedError: features that are not finite.

    Example:
        >>> import numpy as np, i2p_zoo
        >>> from i2p_zoo.data import CloudSet
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.2)
        >>> rods = np.random.rand(6, 100, 3) * np.array([[1, 0.1, 0.1], [0.1, 0.1, 1]] * 3)[:, None]
        >>> clouds = CloudSet(rods.astype("f4"), np.array([0, 1] * 3), ("along x", "along z"))
        >>> fit_ridge_(model, clouds)
        >>> i2p_zoo.finetune.evaluate(model, clouds).top1
        1.0
    """
    if unlabelled is not None and unlabelled.normalization != clouds.normalization:
        raise InvalidInputError(
            f"Unlabelled clouds must be centred and scaled as the labelled ones, {clouds.normalization!r}; they are "
            f"{unlabelled.normalization!r}."
        )
    if strength is not None and not 0 < strength < math.inf:
        raise InvalidInputError(f"`strength` must be a positive number; got {strength}.")
    classifier = find_classifier(model)
    labels = torch.from_numpy(clouds.hard_labels())
    counts = torch.bincount(labels, minlength=len(clouds.classes))
    if absent := [name for name, count in zip(clouds.classes, counts.tolist(), strict=True) if not count]:
        raise InvalidInputError(f"A classifier needs a cloud of each class; there is none of {join_words(absent)}.")
    if not isinstance(classifier, nn.Linear):
        raise UnsupportedError(f"Ridge regression needs a linear classifier; this one is {type(classifier).__qualname__}.")
    if classifier.out_features != len(clouds.classes):
        raise InvalidInputError(
            f"The classifier has {count_of(classifier.out_features, 'output')} for {count_of(len(clouds.classes), 'class')}: "
            "call "
            f"`model.reset_classifier({len(clouds.classes)})` first."
        )
    strength = len(clouds.classes) / len(clouds) if strength is None else strength
    features = penultimate_features(model, clouds, batch_size).double()
    if unlabelled is not None:
        features = torch.cat([features, penultimate_features(model, unlabelled, batch_size).double()])
    if not features.isfinite().all():
        raise DivergedError("The network's features are NaN or infinite.")
    if unlabelled is None:
        middle = torch.stack([features[labels == number].mean(0) for number in range(len(clouds.classes))]).mean(0)
    else:
        middle = features.mean(0)
    distance = (features - middle).norm(dim=1).mean().clamp(min=1e-12)
    rows, target = F.normalize(features - middle, dim=1), F.one_hot(labels, len(clouds.classes)).double()
    trust = torch.ones(len(rows), dtype=torch.float64)
    if unlabelled is not None:
        target = propagate_labels(rows, labels, len(clouds.classes))
        trust[len(clouds) :] = _TRUST * target[len(clouds) :].amax(1) ** 2
    mean = trust @ target / trust.sum()
    root = trust.sqrt()[:, None]
    solution = _solve(root * rows, root * (target - mean), strength)
    weight = solution.T / (_TEMPERATURE * distance)
    classifier.weight.copy_(weight)
    if classifier.bias is None:
        classifier.bias = nn.Parameter(classifier.weight.new_zeros(len(weight)))
    classifier.bias.copy_(-weight @ middle)
    set_class_names_(model, clouds.classes)


def _solve(rows: Tensor, target: Tensor, strength: float) -> Tensor:
    """(C, K) weights of (M, C) rows and (M, K) targets, by the smaller of the two systems of equations."""
    clouds, channels = rows.shape
    size, wide = min(clouds, channels), clouds < channels
    gram = (rows @ rows.T if wide else rows.T @ rows) + strength * torch.eye(size, dtype=rows.dtype)
    solution: Tensor = torch.linalg.solve(gram, target if wide else rows.T @ target)
    return rows.T @ solution if wide else solution
