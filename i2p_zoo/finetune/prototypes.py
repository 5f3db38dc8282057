"""A classifier without training: each class is the mean of its clouds' features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2p_zoo.data import CloudSet
from i2p_zoo.errors import DivergedError, InvalidInputError, UnsupportedError
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.modules import find_classifier, set_class_names_
from i2p_zoo.wording import join_words

_TEMPERATURE = 0.1  # of cosines, so that softmax tells classes apart


@torch.no_grad()
def fit_prototypes_(model: Any, clouds: CloudSet, batch_size: int = 64) -> None:
    """Makes a network's classifier name the class whose mean features are nearest by angle; no step is trained.

    Features f are what the classifier reads. With the mean m of the classes' means, a class k gets the unit vector w along
    its own mean less m, and the logit w (f - m) / s: the cosine of the two over 0.1 for features at the clouds' mean distance
    from m, which s holds. That is linear in f, so the classifier remains the layer that it was, and can be trained on
    (prototypes as a linear classifier: Snell et al. 2017, "Prototypical networks for few-shot learning", section 2.4;
    centred and scaled features: Wang et al. 2019, "SimpleShot").

    Args:
        model: a `PointCloudModel` whose classifier is linear, in place; it notes the clouds' classes. The rest stays.
        clouds: at least one of each class; of soft labels the likeliest counts.
        batch_size: clouds at once.

    Raises:
        InvalidInputError: a class without clouds, or another number of classes than the classifier has.
        UnsupportedError: a classifier that is no linear layer on one vector a cloud.
        DivergedError: features that are not finite.

    Example:
        >>> import numpy as np, i2p_zoo
        >>> from i2p_zoo.data import CloudSet
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.2)
        >>> rods = np.random.rand(6, 100, 3) * np.array([[1, 0.1, 0.1], [0.1, 0.1, 1]] * 3)[:, None]
        >>> clouds = CloudSet(rods.astype("f4"), np.array([0, 1] * 3), ("along x", "along z"))
        >>> fit_prototypes_(model, clouds)
        >>> i2p_zoo.finetune.evaluate(model, clouds).top1
        1.0
    """
    classifier = find_classifier(model)
    labels = torch.from_numpy(clouds.hard_labels())
    counts = torch.bincount(labels, minlength=len(clouds.classes))
    if absent := [name for name, count in zip(clouds.classes, counts.tolist(), strict=True) if not count]:
        raise InvalidInputError(f"A prototype needs a cloud of each class; there is none of {join_words(absent)}.")
    if not isinstance(classifier, nn.Linear):
        raise UnsupportedError(f"Prototypes need a linear classifier; this one is {type(classifier).__qualname__}.")
    if classifier.out_features != len(clouds.classes):
        raise InvalidInputError(
            f"The classifier has {classifier.out_features} outputs for {len(clouds.classes)} classes: call "
            f"`model.reset_classifier({len(clouds.classes)})` first."
        )
    features = read_features(model, classifier, clouds, batch_size).double()
    means = torch.stack([features[labels == number].mean(0) for number in range(len(clouds.classes))])
    middle = means.mean(0)
    distance = (features - middle).norm(dim=1).mean().clamp(min=1e-12)
    weight = F.normalize(means - middle, dim=1) / (_TEMPERATURE * distance)
    classifier.weight.copy_(weight)
    if classifier.bias is None:
        classifier.bias = nn.Parameter(classifier.weight.new_zeros(len(weight)))
    classifier.bias.copy_(-weight @ middle)
    set_class_names_(model, clouds.classes)


def read_features(model: Any, classifier: nn.Module, clouds: CloudSet, batch_size: int = 64) -> Tensor:
    """Returns the (M, C) features that a classifier reads of clouds, on the CPU; every module's mode is put back.

    Raises:
        InvalidInputError: as `predict_logits`.
        UnsupportedError: they are not one vector a cloud.
        DivergedError: features that are not finite.
    """
    batches: list[Any] = []
    handle = classifier.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0].detach().cpu()))
    try:
        predict_logits(model, clouds, batch_size)
    finally:
        handle.remove()
    if any(not isinstance(part, Tensor) or part.ndim != 2 for part in batches) or sum(map(len, batches)) != len(clouds):
        raise UnsupportedError("Prototypes need a classifier that reads one vector a cloud.")
    features = torch.cat(batches)
    if not features.isfinite().all():
        raise DivergedError("The network's features are NaN or infinite.")
    return features
