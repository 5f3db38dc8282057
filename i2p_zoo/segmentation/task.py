"""Segmentation as a task for `i2p_zoo.finetune.train`: crops of scenes, the loss of their points, mean IoU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.data.batches import Sample, VoxelBatch, Voxelizer
from i2p_zoo.data.scenes import IGNORED, SceneSet
from i2p_zoo.data.unit_sphere import CENTRED
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.finetune import Options
from i2p_zoo.modules import class_names, has_other_classes
from i2p_zoo.networks.unet import UNet, join_points
from i2p_zoo.segmentation.crops import Cropping, SceneBatches
from i2p_zoo.segmentation.gathering import gather_rows
from i2p_zoo.segmentation.losses import segmentation_loss
from i2p_zoo.segmentation.metrics import ConfusionCounter, Scores
from i2p_zoo.segmentation.voting import segment
from i2p_zoo.wording import count_of


@dataclass
class Segmentation:
    """Classes of points.

    Attributes:
        scenes: to train on.
        monitor: to judge by, or None.
        cropping: of the training crops.
        loss: "cross-entropy", "lovasz" or "both".
        class_weights: of the cross-entropy, or None.
        extent, overlap: of the blocks in which monitored scenes are segmented, as `segment` takes them.
    """

    scenes: SceneSet
    monitor: SceneSet | None = None
    cropping: Cropping = field(default_factory=Cropping)
    loss: str = "cross-entropy"
    class_weights: Sequence[float] | None = None
    extent: ArrayLike | None = None
    overlap: float = 0.25

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def is_monitored(self) -> bool:
        """Whether there are scenes to judge by."""
        return self.monitor is not None

    @property
    def normalization(self) -> str:
        """How the crops are placed."""
        return CENTRED

    @property
    def classes(self) -> tuple[str, ...]:
        """The scenes'."""
        return self.scenes.classes

    @property
    def codes(self) -> tuple[int, ...]:
        """The numbers that files give the classes; empty for 0 and on."""
        return self.scenes.codes or ()

    def batches(self, options: Options) -> SceneBatches:
        """Returns batches by their number; a sample is a crop and its labels."""
        return SceneBatches(self.scenes, options.batch_size, options.seed, self.cropping, options.augmented)

    @staticmethod
    def gather(samples: list[Sample], settings: Voxelizer) -> VoxelBatch:
        """Voxelizes crops, with their points and a label for each."""
        clouds = [cloud for cloud, _ in samples]
        x, index = settings.voxelize(clouds)
        labels = torch.from_numpy(np.concatenate([labels for _, labels in samples]))
        return VoxelBatch(x.coords, x.features, x.batch_size, labels, join_points(clouds), index)

    def measure(self, model: UNet, batch: VoxelBatch, options: Options) -> tuple[Tensor, Tensor]:
        """Returns the loss over the points of some crops, and the accuracy on them; of several processes over those of all.

        Raises:
            InvalidInputError: a network of another number of classes.
        """
        logits = model(batch.voxels, batch.points, batch.rows)
        if logits.shape[1] != len(self.scenes.classes):
            raise InvalidInputError(
                f"The network has {count_of(logits.shape[1], 'class')}, the scenes {len(self.scenes.classes)}."
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits, labels = gather_rows(logits), gather_rows(batch.labels)
        loss = segmentation_loss(logits, labels, self.loss, self.class_weights, options.label_smoothing)
        right = (logits.argmax(1) == labels)[labels != IGNORED].double()
        return loss, right.mean() if len(right) else right.sum()

    def evaluate(self, model: UNet, accelerator: Any, options: Options) -> dict[str, float]:
        """Returns miou and accuracy of the monitored scenes."""
        scenes: Any = self.monitor
        scores = score(model, scenes, self.extent, self.overlap, accelerator=accelerator)
        return {"miou": scores.miou, "accuracy": scores.accuracy}

    def fingerprint(self) -> bytes:
        """Hashes the names of the scenes to train on and to judge by, the classes, and how crops, blocks and loss are made."""
        judged = None if self.monitor is None else (self.monitor.names, self.extent, self.overlap)
        codes = () if self.scenes.codes is None else (self.scenes.codes,)
        parts = (self.scenes.names, judged, self.scenes.classes, self.cropping, self.loss, self.class_weights, *codes)
        return hashlib.sha256(repr(parts).encode()).digest()


def score(
    model: UNet,
    scenes: SceneSet,
    extent: ArrayLike | None = None,
    overlap: float = 0.25,
    *,
    progress: str | None = None,
    accelerator: Any = None,
) -> Scores:
    """Segments scenes and compares them with their labels; several processes take turns and all get the whole.

    Args:
        model, extent, overlap, progress: as `segment`.
        scenes: labelled.
        accelerator: of several processes.

    Raises:
        InvalidInputError: no scenes, a network of other classes, a scene that lacks what the network reads, or as `segment`.
    """
    if has_other_classes(model, model.num_classes, scenes.classes):
        names = ", ".join(class_names(model)) or f"{model.num_classes} without names"
        raise InvalidInputError(f"The network's classes are {names}; the scenes' are {', '.join(scenes.classes)}.")
    scenes = scenes.reading(model.settings.features)
    counter = ConfusionCounter(scenes.classes)
    rank, count = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    for number in range(rank, len(scenes), count):
        scene = scenes.scene(number)
        label = None if progress is None else f"{progress} {number + 1}/{len(scenes)}"
        counter.add(segment(model, scene, extent, overlap, label).argmax(1), scene["labels"])
    if count > 1:
        counter.confusion = sum(require("accelerate.utils", "finetune").gather_object([counter.confusion]))
    return counter.scores()
