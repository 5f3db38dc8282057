"""Finetuning: which layers train (Image2Point's modes), a plain training loop, and accuracy."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from i2p_zoo.data import CloudSet, TrainingBatches, evaluation_batches
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.layers import SparseConv3d
from i2p_zoo.sparse_tensor import SparseTensor

MODES = ("all", "io+bn", "io", "none")
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters after `freeze`."""

    trained: int
    total: int


def freeze(model: Any, mode: str) -> ParameterCount:
    """Sets which parameters train, and keeps normalisation in eval mode where it does not.

    Args:
        model: a `PointCloudModel`, in place. Call it before the optimizer is made.
        mode: "all"; "io", the convolutions that read the input and the classifier, normalisation on the image's
            statistics; "io+bn", these and every normalisation layer, affine and statistics; "none".
            (Image2Point, section 3: FIP-ALL, FIP-IO, FIP-IO+BN.)

    Returns:
        How many parameters train, of how many.

    Raises:
        InvalidInputError: an unknown mode, or a model without a classifier for "io" and "io+bn".

    Example:
        >>> import i2p_zoo
        >>> model = i2p_zoo.create_model("test_resnet", num_classes=10, stem="point")
        >>> freeze(model, "io+bn").trained
        4346
    """
    if mode not in MODES:
        raise InvalidInputError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r}.")
    trained = [model] if mode == "all" else []
    if mode in ("io", "io+bn"):
        trained = [*find_input_layers(model), find_classifier(model)]
    if mode == "io+bn":
        trained += [module for module in model.modules() if isinstance(module, NORMS)]
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    model.frozen_norms = mode in ("io", "none")
    model.train(model.training)
    counts = {id(p): (p.numel(), p.requires_grad) for p in model.parameters()}
    return ParameterCount(sum(n for n, on in counts.values() if on), sum(n for n, _ in counts.values()))


def find_input_layers(model: Any) -> list[nn.Module]:
    """Returns the convolutions that read a network's input, found by running it on one voxel.

    Raises:
        InvalidInputError: there is none.
    """
    convolutions = [module for module in model.modules() if isinstance(module, SparseConv3d)]
    found: list[nn.Module] = []
    for channels in dict.fromkeys(module.in_channels for module in convolutions):  # not every one is the input's
        weight = convolutions[0].weight
        features = weight.new_zeros(1, channels)

        def hook(module: nn.Module, inputs: Any, features: Tensor = features) -> None:
            if getattr(inputs[0], "features", None) is features:
                found.append(module)

        handles = [module.register_forward_pre_hook(hook) for module in convolutions]
        try:
            with eval_mode(model), torch.no_grad():
                model(SparseTensor(features, torch.zeros(1, 4, dtype=torch.int32, device=weight.device)))
            break
        except InvalidInputError:
            found.clear()
        finally:
            for handle in handles:
                handle.remove()
    if not found:
        raise InvalidInputError(f"No convolution of {type(model).__qualname__} reads the input itself.")
    return list(dict.fromkeys(found))


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


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labelled clouds, as fractions.

    Attributes:
        top1: of all clouds.
        mean_class: mean over the classes that occur.
        predictions: (M,) the predicted classes.
    """

    top1: float
    mean_class: float
    predictions: NDArray[np.int64] = field(repr=False)


@torch.no_grad()
def evaluate(model: Any, clouds: CloudSet, batch_size: int = 64) -> Accuracy:
    """Classifies labelled clouds in eval mode; every module's mode is put back.

    Raises:
        InvalidInputError: no clouds, or a batch size below 1.
    """
    if not len(clouds) or batch_size < 1:
        raise InvalidInputError(f"Accuracy needs clouds ({len(clouds)}) and a batch_size (={batch_size}) of 1 or more.")
    parameter = next(model.parameters())
    with eval_mode(model):
        batches = evaluation_batches(clouds, batch_size, model.settings)
        found = [model(x.to(device=parameter.device, dtype=parameter.dtype)).argmax(1).cpu() for x in batches]
    predictions = torch.cat(found).numpy()
    right = predictions == clouds.labels
    by_class = [float(right[clouds.labels == label].mean()) for label in np.unique(clouds.labels)]
    return Accuracy(float(right.mean()), float(np.mean(by_class)), predictions)


@dataclass(frozen=True)
class Step:
    """One training step: its number, the batch's loss and accuracy, and the seconds since the start."""

    step: int
    loss: float
    batch_top1: float
    seconds: float

    def to_dict(self) -> dict[str, float]:
        """Returns the fields as JSON types."""
        return asdict(self)


def train(
    model: Any,
    clouds: CloudSet,
    *,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 0.05,
    weight_decay: float = 1e-4,
    seed: int = 0,
    progress: str | None = None,
) -> list[Step]:
    """Trains a classifier, in place, by SGD (Nesterov momentum 0.9) with warm-up and cosine decay, stepped each batch.

    Args:
        model: a `PointCloudModel`; what `freeze` left trainable trains.
        clouds: the training split.
        steps: number of batches.
        batch_size: clouds a batch.
        learning_rate: the schedule's peak.
        weight_decay: of every trained parameter.
        seed: of batches, augmentation and dropout.
        progress: label of a progress bar; None for no bar.

    Returns:
        The history, one entry a step.

    Raises:
        InvalidInputError: numbers out of range, or nothing to train.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    numbers_fit = steps >= 1 and batch_size >= 1 and learning_rate > 0 and weight_decay >= 0 and seed >= 0
    if not numbers_fit or not parameters or not len(clouds):
        raise InvalidInputError(
            f"Training needs steps (={steps}) and batch_size (={batch_size}) of 1 or more, learning_rate (={learning_rate}) "
            f"above 0, weight_decay (={weight_decay}) and seed (={seed}) of 0 or more, trainable parameters "
            f"({len(parameters)} tensors) and clouds ({len(clouds)})."
        )
    device = parameters[0].device
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_and_cosine(step, steps))
    source = TrainingBatches(clouds, batch_size, seed)
    batches = (source[step] for step in range(steps))
    history: list[Step] = []
    bar = tqdm(batches, total=steps, desc=progress, disable=progress is None)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        for points, labels in bar:
            logits = model(points)
            loss = nn.functional.cross_entropy(logits, labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            top1 = float((logits.argmax(1).cpu() == labels).double().mean())
            history.append(Step(len(history) + 1, loss.item(), top1, time.perf_counter() - start))
            bar.set_postfix(loss=f"{history[-1].loss:.2f}", top1=f"{top1:.2f}")
    model.eval()
    return history


def warm_up_and_cosine(step: int, steps: int) -> float:
    """The factor of the peak learning rate at a step, 0 to `steps` - 1: a linear fifth upwards, then half a cosine."""
    warm = max(1, round(0.2 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (steps - warm + 1)))
