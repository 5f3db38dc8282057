"""What a training run is about: its batches, its loss, and the scores it is judged by."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from i2p_zoo.data import CloudSet, TrainingBatches
from i2p_zoo.data.batches import Sample, VoxelBatch, Voxelizer
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune.evaluation import evaluate
from i2p_zoo.finetune.options import Options
from i2p_zoo.finetune.prefetching import Batches
from i2p_zoo.wording import count_of


class Task(Protocol):
    """What `train` asks of a task; `Classification` is one.

    It may also have a `normalization`, how its samples are centred and scaled, as the network's settings then note it, and
    `codes`, the numbers that files give its classes.
    """

    def __len__(self) -> int:
        """Number of samples to train on."""

    @property
    def is_monitored(self) -> bool:
        """Whether there are samples to judge by."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which a network of as many notes; empty where the task has none."""

    def batches(self, options: Options) -> Batches:
        """Returns the batches by their number, as they go to the processes that draw them."""

    @staticmethod
    def gather(samples: list[Any], settings: Voxelizer) -> VoxelBatch:
        """Voxelizes some samples as a network of these settings reads them, in the process that drew them."""

    def measure(self, model: Any, batch: VoxelBatch, options: Options) -> tuple[Tensor, Tensor]:
        """Runs a network on a part of a batch; returns its mean loss and, without gradient, its accuracy.

        Of several processes each has as many samples; the mean of their losses is what the step follows.
        """

    def evaluate(self, model: Any, accelerator: Any, options: Options) -> dict[str, float]:
        """Scores of the monitored samples, as fractions, the one that counts first; the same in every process."""

    def fingerprint(self) -> bytes:
        """Returns a hash of the data that a resumed run must find unchanged."""


class Classification:
    """Classes of whole clouds.

    Args:
        clouds: to train on.
        monitor: to judge by, or None.
        votes: of each of those, as `evaluate`.

    Raises:
        InvalidInputError: the two do not have the same classes in the same order.
    """

    def __init__(self, clouds: CloudSet, monitor: CloudSet | None = None, votes: int = 1) -> None:
        if monitor is not None:
            check_classes(clouds.classes, monitor.classes)
        self.clouds, self.monitor, self.votes = clouds, monitor, votes

    def __len__(self) -> int:
        return len(self.clouds)

    @property
    def is_monitored(self) -> bool:
        """Whether there are clouds to judge by."""
        return self.monitor is not None

    @property
    def normalization(self) -> str:
        """How the clouds are centred and scaled."""
        return self.clouds.normalization

    @property
    def classes(self) -> tuple[str, ...]:
        """The clouds'."""
        return self.clouds.classes

    def batches(self, options: Options) -> TrainingBatches:
        """Returns batches by their number; a sample is a cloud and its label."""
        return TrainingBatches(self.clouds, options.batch_size, options.seed, options.augmented)

    @staticmethod
    def gather(samples: list[Sample], settings: Voxelizer) -> VoxelBatch:
        """Voxelizes clouds, with a label for each."""
        x, _ = settings.voxelize([cloud for cloud, _ in samples])
        labels = torch.from_numpy(np.stack([label for _, label in samples]))
        return VoxelBatch(x.coords, x.features, x.batch_size, labels)

    def measure(self, model: Any, batch: VoxelBatch, options: Options) -> tuple[Tensor, Tensor]:
        """Returns the cross-entropy with hard or soft labels, and top-1 accuracy.

        Raises:
            InvalidInputError: a network of fewer outputs than classes.
        """
        logits, target = model(batch.voxels), batch.labels
        if logits.shape[1] < len(self.clouds.classes):
            raise InvalidInputError(
                f"The network has {count_of(logits.shape[1], 'output')} for {count_of(len(self.clouds.classes), 'class')}."
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        soft = target.ndim == 2
        scaled, labels = logits / options.temperature, target.to(logits.dtype) if soft else target
        loss = nn.functional.cross_entropy(scaled, labels, label_smoothing=options.label_smoothing)
        right = logits.argmax(1) == (target.argmax(1) if soft else target)
        return loss * options.temperature**2, right.double().mean()

    def evaluate(self, model: Any, accelerator: Any, options: Options) -> dict[str, float]:
        """Returns top1 and mean_class of the monitored clouds."""
        monitor: Any = self.monitor
        accuracy = evaluate(model, monitor, options.batch_size, accelerator, self.votes)
        return {"top1": accuracy.top1, "mean_class": accuracy.mean_class}

    def fingerprint(self) -> bytes:
        """Hashes the clouds to train on and those to judge by."""
        return self.clouds.fingerprint() + (b"" if self.monitor is None else self.monitor.fingerprint())


def check_classes(trained: tuple[str, ...], judged: tuple[str, ...]) -> None:
    """Raises InvalidInputError unless the classes to train and those to judge by are the same, in the same order."""
    if trained != judged:
        raise InvalidInputError(f"The classes to train are {', '.join(trained)}; those to judge by are {', '.join(judged)}.")
