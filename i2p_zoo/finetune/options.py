"""The numbers of a training run, checked before it starts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from i2p_zoo.choices import KEPT_WEIGHTS, OPTIMIZERS, PRECISIONS
from i2p_zoo.errors import InvalidInputError


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        steps: number of batches; 0 trains nothing, and what the network is before its first step is evaluated.
        batch_size: clouds a batch, over all processes.
        learning_rate: the schedule's peak.
        body_rate: factor of the learning rate of what stands between input layers and classifier, that is of all that `freeze`
            does not train in mode "io".
        weight_decay: of every trained parameter.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw".
        warm_up: fraction of the steps over which the rate rises; then it falls as half a cosine, stepped each batch.
        label_smoothing: of the cross-entropy.
        temperature: by which logits are divided in the loss, which is multiplied by its square; for soft labels that a
            teacher gave at the same temperature (Hinton et al. 2015).
        augmented: whether clouds are scaled, shifted and jittered.
        ema: decay of an exponential moving average of the weights, which then is what is evaluated and kept; None for none.
        accumulate: parts in which a process goes through its share of a batch, to save memory.
        precision: "bf16" or "fp16" autocast, "no" for neither; "auto" for what `accelerate launch` was told, else for bf16 on
            a GPU that computes in it, and neither elsewhere.
        seed: of batches, augmentation and dropout.
        workers: processes that draw and voxelize batches ahead of the network; 0 for none. Those of sets in memory take 4 ms
            for 32 clouds and the start of a process seconds, so that 0 suits them on a GPU too; scenes and sets of files
            want 2 to 4 there.
        evaluate_every: steps between evaluations of the monitored clouds, beside the one at the end; None for that one alone.
        target: stop at the first evaluation with this top1.
        keep: "last" or "best", the weights that the model has at the end; "best" is by the monitored clouds' top1.
        save_every: steps between the states that are saved, where there is a folder for them.

    Raises:
        InvalidInputError: a number out of range.
    """

    steps: int = 100
    batch_size: int = 32
    learning_rate: float = 0.05
    body_rate: float = 1.0
    weight_decay: float = 1e-4
    optimizer: str = "sgd"
    warm_up: float = 0.2
    label_smoothing: float = 0.0
    temperature: float = 1.0
    augmented: bool = True
    ema: float | None = None
    accumulate: int = 1
    precision: str = "auto"
    seed: int = 0
    workers: int = 0
    evaluate_every: int | None = None
    target: float | None = None
    keep: str = "last"
    save_every: int = 50

    def __post_init__(self) -> None:
        at_least = {"steps": 0, "batch_size": 1, "accumulate": 1, "save_every": 1, "weight_decay": 0, "seed": 0, "workers": 0}
        for name, lowest in at_least.items():
            if not getattr(self, name) >= lowest:
                raise InvalidInputError(f"{name} (={getattr(self, name)}) must be at least {lowest}.")
        for name in ("learning_rate", "body_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInputError(f"{name} (={getattr(self, name)}) must be a positive number.")
        for name in ("warm_up", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInputError(f"{name} (={getattr(self, name)}) must lie between 0 and 1.")
        for name, choices in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS), ("keep", KEPT_WEIGHTS)):
            if getattr(self, name) not in choices:
                raise InvalidInputError(f"{name} (={getattr(self, name)!r}) must be one of {', '.join(choices)}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InvalidInputError(f"ema (={self.ema}) must lie between 0 and 1.")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise InvalidInputError(f"evaluate_every (={self.evaluate_every}) must be at least 1 or None.")
        if self.target is not None and not 0 < self.target <= 1:
            raise InvalidInputError(f"target (={self.target}) must be a fraction above 0, up to 1.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return asdict(self)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a linear rise, then half a cosine down to near 0."""
        warm = max(1, round(self.warm_up * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (self.steps - warm + 1)))
