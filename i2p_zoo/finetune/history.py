"""What a training run leaves: a figure a step, and accuracies on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from i2p_zoo.wording import count_of, describe_value


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes:
        step: its number, from 1.
        loss: of its batch, before the update.
        batch_top1: accuracy on its batch, before the update.
        learning_rate: of its update.
        seconds: of training since the start, evaluations left out.
    """

    step: int
    loss: float
    batch_top1: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of the monitored clouds after a step.

    Attributes:
        step: its number.
        scores: fractions by name, the one that counts first: top1 and mean_class for classes of clouds.
        seconds: as in `Step`.
    """

    step: int
    scores: dict[str, float]
    seconds: float

    @property
    def score(self) -> float:
        """The one that counts."""
        return next(iter(self.scores.values()))

    def to_dict(self) -> dict[str, Any]:
        """Returns the step, each score and the seconds as JSON types."""
        return {"step": self.step, **self.scores, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Undoes `to_dict`."""
        scores = dict(values)
        return cls(step=scores.pop("step"), seconds=scores.pop("seconds"), scores=scores)


@dataclass
class History:
    """A training run, step by step.

    Attributes:
        steps: one entry a step.
        evaluations: of the monitored clouds.
        waited: seconds of the training in which a step waited for its batch.
    """

    steps: list[Step] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    waited: float = 0.0

    def __repr__(self) -> str:
        """One line: how many steps, the last loss, and the best evaluation."""
        loss = f", loss {self.steps[-1].loss:.4g}" if self.steps else ""
        best = self.best()
        scores = "" if best is None else f"; best at step {best.step}: {describe_value(best.scores)}"
        return f"History({count_of(len(self.steps), 'step')} in {self.seconds:.0f} s{loss}{scores})"

    @property
    def seconds(self) -> float:
        """Of training, evaluations left out."""
        return self.steps[-1].seconds if self.steps else 0.0

    def best(self) -> Evaluation | None:
        """Returns the first of the best evaluations, by the score that counts."""
        return max(self.evaluations, key=lambda evaluation: evaluation.score, default=None)

    def reached(self, target: float) -> Evaluation | None:
        """Returns the first evaluation with a score of `target` or more."""
        return next((evaluation for evaluation in self.evaluations if evaluation.score >= target), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        evaluations = [evaluation.to_dict() for evaluation in self.evaluations]
        return {"steps": [asdict(step) for step in self.steps], "evaluations": evaluations, "waited": self.waited}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> History:
        """Undoes `to_dict`."""
        evaluations = [Evaluation.from_dict(entry) for entry in values["evaluations"]]
        return cls([Step(**entry) for entry in values["steps"]], evaluations, values["waited"])
