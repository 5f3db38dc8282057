"""What is asked of any network, whatever its class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from i2p_zoo.errors import InvalidInputError


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode for a while, and each of its modules back into its own mode then."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, state in training.items():
            module.training = state


def find_classifier(model: Any) -> nn.Module:
    """Returns timm's classifier of a network; raises InvalidInputError where there is none."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Module) or not list(classifier.parameters()):
        raise InvalidInputError(f"{type(model).__qualname__} has no classifier; create it with num_classes of 1 or more.")
    return classifier
