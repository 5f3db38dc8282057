"""Labels from a teacher for clouds that have none: soft ones (distillation) or hard ones it is sure of (self-training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from i2p_zoo.data import CloudSet
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.modules import class_names, has_other_classes
from i2p_zoo.wording import count_of


def label_by_teacher(
    teacher: Any, clouds: CloudSet, *, temperature: float = 1.0, threshold: float | None = None, batch_size: int = 64
) -> CloudSet:
    """Labels clouds by what a network says of them; their own labels are not looked at.

    Args:
        teacher: a classifier of the same classes.
        clouds: those to label.
        temperature: by which the teacher's logits are divided (Hinton et al. 2015, "Distilling the knowledge in a neural
            network", section 2). Train on soft labels with the same `temperature`.
        threshold: None for soft labels, (M, K) probabilities; a fraction for hard ones, on the clouds alone whose likeliest
            class has at least this probability.
        batch_size: clouds at once.

    Returns:
        The labelled clouds.

    Raises:
        InvalidInputError: a teacher of other classes, as it notes them, numbers out of range, or no cloud it is sure of.
    """
    if not temperature > 0 or (threshold is not None and not 0 <= threshold <= 1):
        raise InvalidInputError(f"temperature (={temperature}) must be positive, threshold (={threshold}) lie in 0 to 1.")
    logits = predict_logits(teacher, clouds, batch_size).double()
    if has_other_classes(teacher, logits.shape[1], clouds.classes):
        names = ", ".join(class_names(teacher)) or "without names"
        raise InvalidInputError(
            f"The teacher knows {count_of(logits.shape[1], 'class')}, {names}; the clouds have {len(clouds.classes)}, "
            f"{', '.join(clouds.classes)}."
        )
    probabilities = (logits / temperature).softmax(1).numpy()
    if threshold is None:
        return replace(clouds, labels=probabilities.astype(np.float32))
    sure = np.flatnonzero(probabilities.max(1) >= threshold)
    if not len(sure):
        raise InvalidInputError(
            f"The teacher is sure of no cloud: its largest probability is {probabilities.max():.3f}, the threshold {threshold}."
        )
    return replace(clouds, labels=probabilities.argmax(1)).subset(sure)
