"""What a network's classifier reads of clouds, and what a 2D network's reads of images."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.data import CloudSet, evaluation_batches
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.modules import eval_mode, find_classifier
from i2p_zoo.sparse.device_memory import SMALLER_BATCH, explain_memory
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.wording import count_of


def penultimate_features(model: Any, clouds: CloudSet, batch_size: int = 32) -> Tensor:
    """Returns what a network's classifier reads of each cloud, in eval mode; every module's mode is put back.

    Args:
        model: a `PointCloudModel` with a classifier.
        clouds: the clouds, voxelized by the model's settings.
        batch_size: clouds a batch.

    Returns:
        (M, D) on the CPU, in the model's dtype.

    Raises:
        InvalidInputError: no clouds, a batch size below 1, no classifier, or one that does not read one vector a cloud.

    Example:
        >>> import numpy as np, i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=2)
        >>> clouds = CloudSet(np.random.rand(3, 50, 3).astype(np.float32), np.array([0, 1, 1]), ("chair", "table"))
        >>> penultimate_features(model, clouds).shape
        torch.Size([3, 96])
    """
    if not len(clouds) or batch_size < 1:
        raise InvalidInputError(
            "Features need 1 cloud or more and a batch_size of 1 or more; "
            f"got {count_of(len(clouds), 'cloud')} and batch_size={batch_size}."
        )
    return _classifier_inputs(model, evaluation_batches(clouds, batch_size, model.settings))


def image_features(model: Any, images: Iterable[Tensor]) -> Tensor:
    """Returns what a 2D network's classifier reads of each image, in eval mode; every module's mode is put back.

    Args:
        model: a timm network with a classifier.
        images: batches (B, C, H, W), normalised as the network wants them.

    Returns:
        (M, D) on the CPU, in the model's dtype.

    Raises:
        InvalidInputError: no batches, or such as are not (B, C, H, W) tensors; no classifier, or one that does not read one
            vector an image.

    Example:
        >>> import timm
        >>> image_features(timm.create_model("test_resnet"), [torch.rand(2, 3, 64, 64)]).shape
        torch.Size([2, 96])
    """
    return _classifier_inputs(model, (_check_images(batch) for batch in images))


def _check_images(batch: Any) -> Tensor:
    if not isinstance(batch, Tensor) or batch.ndim != 4:
        shown = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise InvalidInputError(f"A batch of images must be a (B, C, H, W) tensor; got {shown}.")
    return batch


def _explain_batch(batch: Any) -> AbstractContextManager[None]:
    """Says of clouds, where a device's memory does not suffice, how many voxels they are."""
    if not isinstance(batch, SparseTensor):
        return nullcontext()
    return explain_memory(lambda: len(batch.coords), SMALLER_BATCH)


@torch.no_grad()
def _classifier_inputs(model: Any, batches: Iterable[Any]) -> Tensor:
    """The classifier's inputs, (M, D), seen by a hook: some networks do more after timm's `pre_logits`, or ignore it."""
    parameter = next(model.parameters())
    name = type(model).__qualname__
    seen: list[Any] = []
    handle = find_classifier(model).register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    inputs: list[Tensor] = []
    try:
        with eval_mode(model):
            for batch in batches:
                seen.clear()
                with _explain_batch(batch):
                    model(batch.to(device=parameter.device, dtype=parameter.dtype))
                if len(seen) != 1:
                    raise InvalidInputError(
                        f"{name} ran its classifier {count_of(len(seen), 'time')} for one batch; once was expected."
                    )
                values = seen[0]  # of a classifier that is a 1x1 convolution (B, D, 1, 1)
                if not isinstance(values, Tensor) or values.ndim < 2 or values[:1, :1].numel() != 1:
                    shape = tuple(values.shape)
                    raise InvalidInputError(f"The classifier of {name} must read one vector a sample; it reads {shape}.")
                inputs.append(values.flatten(1).cpu())
    finally:
        handle.remove()
    if not inputs:
        raise InvalidInputError("There are no batches to take features of.")
    return torch.cat(inputs)
